//! How a connection came to be and how long a response took: for reports and timings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::tls::Session;

/// The way to a connection, as far as it was gone.
#[derive(Debug, Default, Clone)]
pub struct Trace {
    /// What was connected to: the server, or the proxy in between.
    pub address: Option<String>,
    /// Looking up the name.
    pub resolve: Duration,
    /// TCP, and the tunnel through a proxy.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The TLS session, once its handshake has begun.
    pub session: Option<Arc<Session>>,
    /// Whether there was a connection in the end.
    pub is_open: bool,
}

impl Trace {
    /// How long opening the connection took.
    pub fn opening(&self) -> Duration {
        self.resolve + self.connect + self.tls
    }
}

/// When what came of a request.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How its connection was opened; `None` if it has carried a request before.
    pub opening: Option<Arc<Trace>>,
    /// When its first byte was sent.
    pub began: Instant,
    /// When the first byte of the response came.
    pub first_byte: Instant,
    /// When its head was complete.
    pub head: Instant,
}

impl Timing {
    /// From the beginning, opening the connection included, to `end`.
    pub fn total(&self, end: Instant) -> Duration {
        let opening = self.opening.as_ref().map(|trace| trace.opening());
        opening.unwrap_or_default() + end.saturating_duration_since(self.began)
    }
}
