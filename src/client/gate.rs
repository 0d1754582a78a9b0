//! A bound on the connections in use to one destination, with a queue for those who wait.
//!
//! As with cosockets, there is none unless the caller gives `backlog`. An idle connection is always
//! preferred to a new one, so that bounding those in use bounds all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Destination;
use crate::error::{Cause, Error, Result, Stage};

/// The gates of a process.
#[derive(Debug, Default)]
pub struct Gates(Mutex<HashMap<Arc<Destination>, Arc<Gate>>>);

/// The bound of one destination.
#[derive(Debug)]
pub struct Gate {
    size: usize,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Gates kept at a time before unused ones are dropped.
const MAX_GATES: usize = 256;

impl Gates {
    /// The gate of a destination. Whoever comes first decides on its size, as with cosockets.
    pub fn get(&self, destination: &Arc<Destination>, size: usize) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.len() >= MAX_GATES {
            gates.retain(|_, gate| gate.is_used());
        }
        let size = size.min(Semaphore::MAX_PERMITS);
        let gate = gates.entry(destination.clone()).or_insert_with(|| {
            Arc::new(Gate {
                size,
                permits: Arc::new(Semaphore::new(size)),
                waiting: AtomicUsize::new(0),
            })
        });
        gate.clone()
    }

    /// Drops those of destinations that nobody else knows any more: with them go their profiles.
    pub fn drop_unused(&self) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|destination, gate| gate.is_used() || Arc::strong_count(destination) > 1);
    }
}

impl Gate {
    /// Waits for a free place, if no more than `backlog` others wait already.
    ///
    /// # Errors
    ///
    /// The queue is full.
    pub async fn enter(&self, backlog: usize) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::take(&self.waiting, backlog)?;
        self.permits
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::internal("a connection gate was closed"))
    }

    fn is_used(&self) -> bool {
        self.permits.available_permits() < self.size || self.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A place in the queue, given up when dropped: also by a waiter that is cancelled.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, backlog: usize) -> Result<Self> {
        let take = |count| (count < backlog).then_some(count + 1);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(Self(waiting)),
            Err(_) => Err(Error::new(Stage::Connect, Cause::TooManyWaiting)),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
