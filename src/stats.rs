//! Counters of one process, read from Lua with `http.stats()`.
//!
//! What has a destination is counted there and nowhere else: the figures of the process are sums, made
//! when somebody asks. So counting costs one atomic addition, and needs neither a lock nor memory.
//! A connection finds its [`Tally`] once, when it is opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A counter. Relaxed: figures, not synchronisation.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// One less.
    pub fn decrement(&self) {
        self.subtract(1);
    }

    /// So many less.
    pub fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts by the code of an error. Errors are rare enough for a lock.
#[derive(Debug, Default)]
pub struct ByCode(Mutex<BTreeMap<String, u64>>);

/// There are fewer codes than that. One more can only come from outside of this library.
const MAX_CODES: usize = 64;

impl ByCode {
    /// One more with this code.
    pub fn count(&self, code: &str) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(code) {
            *count += 1;
        } else if counts.len() < MAX_CODES {
            counts.insert(code.to_owned(), 1);
        }
    }

    fn get(&self) -> BTreeMap<String, u64> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

macro_rules! counters {
    ($name:ident: $($(#[$doc:meta])* $field:ident,)* ; $($(#[$code_doc:meta])* $by_code:ident,)*) => {
        /// Counters, and what their values are called.
        #[derive(Debug, Default)]
        pub struct $name {
            $($(#[$doc])* pub $field: Counter,)*
            $($(#[$code_doc])* pub $by_code: ByCode,)*
        }

        impl $name {
            /// Their values now.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    counters: vec![$((stringify!($field), self.$field.get()),)*],
                    by_code: vec![$((stringify!($by_code), self.$by_code.get()),)*],
                }
            }
        }
    };
}

counters! {
    Tally:
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
    /// Requests whose response has not come completely yet.
    requests_in_flight,
    /// Requests sent again because their pooled connection was dead.
    retries,
    /// Calls that failed.
    failures,
    /// Bytes of HTTP sent, before TLS encrypts them.
    bytes_sent,
    /// Bytes of HTTP received, as TLS has decrypted them.
    bytes_received,
    ;
    /// The handshakes that failed.
    handshakes_failed_by_code,
    /// The calls that failed.
    failures_by_code,
}

counters! {
    Stats:
    /// Operations handed to the runtime: each may make its light thread wait once.
    operations,
    /// Operations handed to the runtime and not drained by their Lua VM yet.
    operations_in_flight,
    /// Bytes written to wake a dispatcher.
    wakes,
    ;
}

impl Tally {
    /// A call failed.
    pub fn count_failure(&self, code: &str) {
        self.failures.increment();
        self.failures_by_code.count(code);
    }

    /// A handshake failed.
    pub fn count_failed_handshake(&self, code: &str) {
        self.handshakes_failed.increment();
        self.handshakes_failed_by_code.count(code);
    }
}

/// Destinations that have a tally of their own. Hosts may come from outside, and neither memory nor
/// what a metrics system has to store may grow with them.
pub const MAX_DESTINATIONS: usize = 100;

/// The name of the tally of all others.
pub const OTHER: &str = "other";

/// The tallies of a process.
#[derive(Debug, Default)]
pub struct Tallies {
    /// Never freed, as the engine is not: their number is bounded.
    named: Mutex<HashMap<String, &'static Tally>>,
    other: Tally,
}

impl Tallies {
    /// The tally of the destination of this name.
    pub fn of(&'static self, name: &str) -> &'static Tally {
        let mut named = self.lock();
        if let Some(tally) = named.get(name) {
            return tally;
        }
        if named.len() >= MAX_DESTINATIONS {
            return &self.other;
        }
        let tally: &'static Tally = Box::leak(Box::default());
        named.insert(name.to_owned(), tally);
        tally
    }

    /// The tally of what has no destination, or one too many.
    pub fn other(&self) -> &Tally {
        &self.other
    }

    /// Connections that are open, wherever they lead.
    pub fn connections_open(&self) -> u64 {
        let named = self.lock();
        let named = named.values().map(|tally| tally.connections_open.get());
        named.sum::<u64>() + self.other.connections_open.get()
    }

    /// The name under which a destination is counted.
    pub fn counted_as<'a>(&self, name: &'a str) -> &'a str {
        match self.lock().contains_key(name) {
            true => name,
            false => OTHER,
        }
    }

    /// The values by destination.
    pub fn snapshots(&self) -> Vec<(String, Snapshot)> {
        let named = self.lock();
        let named = named
            .iter()
            .map(|(name, tally)| (name.clone(), tally.snapshot()));
        let other = std::iter::once((OTHER.to_owned(), self.other.snapshot()));
        named.chain(other).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, &'static Tally>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Values of counters at one time.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By the name of the counter.
    pub counters: Vec<(&'static str, u64)>,
    /// By name, and then by the code of the error.
    pub by_code: Vec<(&'static str, BTreeMap<String, u64>)>,
}

impl Snapshot {
    /// A value that is no counter's.
    pub fn set(&mut self, name: &'static str, value: u64) {
        self.counters.push((name, value));
    }

    /// Adds values to those of the same name.
    pub fn add(&mut self, other: &Self) {
        for (name, value) in &other.counters {
            match self.counters.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum = sum.wrapping_add(*value),
                None => self.counters.push((name, *value)),
            }
        }
        for (name, counts) in &other.by_code {
            match self.by_code.iter_mut().find(|(known, _)| known == name) {
                Some((_, sums)) => {
                    for (code, count) in counts {
                        *sums.entry(code.clone()).or_default() += count;
                    }
                }
                None => self.by_code.push((name, counts.clone())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(snapshot: &Snapshot, name: &str) -> u64 {
        let found = snapshot.counters.iter().find(|(known, _)| *known == name);
        found.unwrap().1
    }

    #[test]
    fn destinations_beyond_the_bound_share_a_tally() {
        let tallies: &'static Tallies = Box::leak(Box::default());
        for number in 0..MAX_DESTINATIONS + 20 {
            tallies.of(&format!("http://{number}")).requests.increment();
        }
        tallies.of("http://0").requests.increment();
        let snapshots: HashMap<_, _> = tallies.snapshots().into_iter().collect();
        assert_eq!(snapshots.len(), MAX_DESTINATIONS + 1);
        assert_eq!(value(&snapshots["http://0"], "requests"), 2);
        assert_eq!(value(&snapshots[OTHER], "requests"), 20);
        assert_eq!(tallies.counted_as("http://119"), OTHER);
        assert_eq!(tallies.counted_as("http://99"), "http://99");
    }

    #[test]
    fn sums_are_by_name_and_code() {
        let (one, two) = (Tally::default(), Tally::default());
        one.count_failure("closed");
        two.count_failure("closed");
        two.count_failure("internal");
        let mut sum = one.snapshot();
        sum.add(&two.snapshot());
        assert_eq!(value(&sum, "failures"), 3);
        let (_, by_code) = &sum.by_code[1];
        let codes: Vec<_> = by_code
            .iter()
            .map(|(code, count)| (code.as_str(), *count))
            .collect();
        assert_eq!(codes, [("closed", 2), ("internal", 1)]);
    }

    #[test]
    fn codes_are_bounded() {
        let by_code = ByCode::default();
        for number in 0..MAX_CODES + 9 {
            by_code.count(&number.to_string());
        }
        assert_eq!(by_code.get().len(), MAX_CODES);
    }
}
