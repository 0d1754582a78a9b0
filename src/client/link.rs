//! What a client has in hand: a connection of its own, or a place on a shared one.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::Connection;
use super::lease::Lease;
use super::trace::Trace;
use crate::error::{Error, Result, Stage};

/// See the module.
#[derive(Debug)]
pub enum Link {
    /// HTTP/1: one request at a time.
    Own(Box<Connection>),
    /// HTTP/2: streams beside those of others.
    Shared(Box<Lease>),
}

impl Link {
    /// Whether the runtime's thread that has opened it has ended.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Own(connection) => connection.is_lost(),
            Self::Shared(lease) => lease.is_lost(),
        }
    }

    /// How often it came out of the pool, or how many had it before.
    pub fn reused(&self) -> u32 {
        match self {
            Self::Own(connection) => connection.reused,
            Self::Shared(lease) => lease.reused,
        }
    }

    /// How the connection came to be.
    pub fn trace(&self) -> &Arc<Trace> {
        match self {
            Self::Own(connection) => connection.trace(),
            Self::Shared(lease) => lease.trace(),
        }
    }

    /// Its place among those in use, where their number is bounded.
    pub fn set_permit(&mut self, permit: Option<OwnedSemaphorePermit>) {
        match self {
            Self::Own(connection) => connection.permit = permit,
            Self::Shared(lease) => lease.permit = permit,
        }
    }

    /// Requests whose responses have not been read.
    pub fn responses_due(&self) -> usize {
        match self {
            Self::Own(connection) => connection.responses_due as usize,
            Self::Shared(lease) => lease.due.len(),
        }
    }

    /// What is left to send of a request body whose length its head has announced.
    pub fn body_left(&mut self) -> Option<&mut u64> {
        match self {
            Self::Own(connection) => connection.body_left.as_mut(),
            Self::Shared(lease) => lease.due.back_mut()?.left.as_mut(),
        }
    }

    /// Ends a request body that came in pieces: how many bytes of it are missing.
    pub fn end_body(&mut self) -> u64 {
        match self {
            Self::Own(connection) => connection.body_left.take().unwrap_or(0),
            Self::Shared(lease) => lease.end_body(),
        }
    }

    /// A connection of its own.
    ///
    /// # Errors
    ///
    /// It is a shared one: the server has been configured anew since it was asked last.
    pub fn into_own(self) -> Result<Box<Connection>> {
        match self {
            Self::Own(connection) => Ok(connection),
            Self::Shared(_) => Err(Error::closed(Stage::Send)),
        }
    }

    /// Tells the server that we are done with it.
    pub fn close(self) {
        match self {
            Self::Own(connection) => connection.close(),
            // The streams of this client are reset as they are dropped (RFC 9113, 5.4.2).
            Self::Shared(lease) => drop(lease),
        }
    }
}
