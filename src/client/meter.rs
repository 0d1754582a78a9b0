//! What a connection counts where it leads to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stats::Tally;

/// Counts a connection as open for as long as it is.
#[derive(Debug)]
pub struct Open(&'static Tally);

impl Open {
    /// One more.
    pub fn new(tally: &'static Tally) -> Self {
        tally.connections_opened.increment();
        tally.connections_open.increment();
        Self(tally)
    }

    /// Counts it as open where it leads to from now on.
    pub fn moved_to(self, tally: &'static Tally) -> Self {
        tally.connections_open.increment();
        Self(tally)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_open.decrement();
    }
}

/// Counts requests as in flight until they are answered or given up.
#[derive(Debug)]
pub struct Unanswered {
    tally: &'static Tally,
    count: u64,
}

impl Unanswered {
    /// None so far.
    pub fn none(tally: &'static Tally) -> Self {
        Self { tally, count: 0 }
    }

    /// One, which is answered when this is dropped.
    pub fn one(tally: &'static Tally) -> Self {
        let mut unanswered = Self::none(tally);
        unanswered.begin();
        unanswered
    }

    /// A request is sent.
    pub fn begin(&mut self) {
        self.count += 1;
        self.tally.requests_in_flight.increment();
    }

    /// All of a response has come.
    pub fn end(&mut self) {
        if self.count > 0 {
            self.count -= 1;
            self.tally.requests_in_flight.decrement();
        }
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.tally.requests_in_flight.subtract(self.count);
    }
}

/// Counts the bytes of a shared connection.
#[derive(Debug)]
pub struct Metered<IO> {
    io: IO,
    tally: &'static Tally,
}

impl<IO> Metered<IO> {
    /// `io`, counted.
    pub fn new(io: IO, tally: &'static Tally) -> Self {
        Self { io, tally }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Metered<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, space);
        let count = space.filled().len() - before;
        self.tally.bytes_received.add(count as u64);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Metered<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.tally.bytes_sent.add(count as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
