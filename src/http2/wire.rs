//! The bytes below the frames, and what h2 does not tell of them.

use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is known of the bytes of a connection.
#[derive(Debug)]
pub struct Health(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    last_read: Instant,
    error: Option<io::Error>,
}

impl Default for Health {
    fn default() -> Self {
        Self(Mutex::new(Seen {
            last_read: Instant::now(),
            error: None,
        }))
    }
}

impl Health {
    /// When bytes came last.
    pub fn last_read(&self) -> Instant {
        self.lock().last_read
    }

    /// Looks at the first error of reading or writing: h2 keeps its text only, and what TLS has to
    /// say is inside.
    pub fn error<T>(&self, look: impl FnOnce(&io::Error) -> T) -> Option<T> {
        self.lock().error.as_ref().map(look)
    }

    fn note_error(&self, error: io::Error) -> io::Error {
        let passed_on = io::Error::new(error.kind(), error.to_string());
        self.lock().error.get_or_insert(error);
        passed_on
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Wire<IO> {
    io: IO,
    health: std::sync::Arc<Health>,
}

impl<IO> Wire<IO> {
    /// `io`, watched.
    pub fn new(io: IO, health: std::sync::Arc<Health>) -> Self {
        Self { io, health }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wire<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = space.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, space);
        if space.filled().len() > before {
            self.health.lock().last_read = Instant::now();
        }
        polled.map_err(|error| self.health.note_error(error))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // What the server says about a broken pipe comes with the next read.
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
