//! Counters of one process, read from Lua with `http.stats()`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter. Relaxed: figures, not synchronisation.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn decrement(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Stats {
            /// Name and value of every counter.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Operations handed to the runtime: each may make its light thread wait once.
    operations,
    /// Operations handed to the runtime and not drained by their Lua VM yet.
    operations_in_flight,
    /// Bytes written to wake a dispatcher.
    wakes,
    /// Connections that were established, with their handshake where there is one.
    connections_opened,
    /// Connections that are open now: in use and idle.
    connections_open,
    /// Times that a connection was taken from the pool.
    connections_reused,
    /// Handshakes with certificates.
    handshakes_full,
    /// Handshakes that resumed an earlier session.
    handshakes_resumed,
    /// Handshakes that failed.
    handshakes_failed,
    /// Requests begun.
    requests,
    /// Requests sent again because their pooled connection was dead.
    retries,
}
