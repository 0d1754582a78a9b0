//! Idle connections, by what makes them interchangeable.
//!
//! The pool knows neither sockets nor Lua: a key that is hashed and compared, and a connection that
//! can say whether it is still good.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the pool asks of a connection.
pub trait Idle {
    /// Whether the connection can carry a request: neither closed nor with unexpected data.
    fn is_usable(&mut self) -> bool;

    /// The same for the periodic look at everything: cheap, may notice later.
    fn seems_usable(&mut self) -> bool;
}

impl<T: Idle> Idle for Box<T> {
    fn is_usable(&mut self) -> bool {
        self.as_mut().is_usable()
    }

    fn seems_usable(&mut self) -> bool {
        self.as_mut().seems_usable()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Pool<K, C>(Mutex<State<K, C>>);

#[derive(Debug)]
struct State<K, C> {
    idle: HashMap<K, Vec<Pooled<C>>>,
    /// Whether somebody has been told to sweep.
    swept: bool,
}

#[derive(Debug)]
struct Pooled<C> {
    connection: C,
    expires: Option<Instant>,
}

impl<K, C> Default for Pool<K, C> {
    fn default() -> Self {
        Self(Mutex::new(State {
            idle: HashMap::new(),
            swept: false,
        }))
    }
}

impl<K: Hash + Eq + Clone, C: Idle> Pool<K, C> {
    /// The usable connection that was put back last. Those found dead on the way are dropped.
    pub fn take(&self, key: &K) -> Option<C> {
        let mut state = self.lock();
        let connections = state.idle.get_mut(key)?;
        let now = Instant::now();
        let mut found = None;
        while let Some(mut pooled) = connections.pop() {
            let fresh = pooled.expires.is_none_or(|expires| expires > now);
            if fresh && pooled.connection.is_usable() {
                found = Some(pooled.connection);
                break;
            }
        }
        if connections.is_empty() {
            state.idle.remove(key);
        }
        found
    }

    /// Puts a connection in for `timeout` (for ever if `None`), and drops those that have been idle
    /// for longest beyond `size`. True if the caller
    /// has to see to it that the pool is swept from now on.
    pub fn put(&self, key: &K, connection: C, timeout: Option<Duration>, size: usize) -> bool {
        let mut state = self.lock();
        // Time-outs of centuries would overflow the clock; they mean "for ever" as well.
        let expires = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let connections = match state.idle.get_mut(key) {
            Some(connections) => connections,
            None => state.idle.entry(key.clone()).or_default(),
        };
        connections.push(Pooled {
            connection,
            expires,
        });
        let over = connections.len().saturating_sub(size.max(1));
        let evicted: Vec<_> = connections.drain(..over).collect();
        let needs_sweeper = !std::mem::replace(&mut state.swept, true);
        drop(state);
        drop(evicted);
        needs_sweeper
    }

    /// Drops what has expired or died. False when nothing is left and sweeping can end.
    pub fn sweep(&self) -> bool {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let now = Instant::now();
        state.idle.retain(|_, connections| {
            let stays = |pooled: &mut Pooled<C>| {
                pooled.expires.is_none_or(|expires| expires > now)
                    && pooled.connection.seems_usable()
            };
            dropped.extend(connections.extract_if(.., |pooled| !stays(pooled)));
            !connections.is_empty()
        });
        state.swept = !state.idle.is_empty();
        state.swept
    }

    /// Tells how many idle connections each key has.
    pub fn each_idle(&self, mut tell: impl FnMut(&K, usize)) {
        for (key, connections) in &self.lock().idle {
            tell(key, connections.len());
        }
    }

    /// Number of idle connections.
    pub fn len(&self) -> usize {
        self.lock().idle.values().map(Vec::len).sum()
    }

    /// Whether there is no idle connection.
    pub fn is_empty(&self) -> bool {
        self.lock().idle.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State<K, C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Connection(u32, bool);

    impl Idle for Connection {
        fn is_usable(&mut self) -> bool {
            self.1
        }

        fn seems_usable(&mut self) -> bool {
            self.1
        }
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn gives_back_the_last_one_of_the_same_key_only() {
        let pool = Pool::default();
        pool.put(&"a", Connection(1, true), LONG, 10);
        pool.put(&"a", Connection(2, true), LONG, 10);
        pool.put(&"b", Connection(3, true), None, 10);
        assert_eq!(pool.take(&"c"), None);
        assert_eq!(pool.take(&"a"), Some(Connection(2, true)));
        assert_eq!(pool.take(&"a"), Some(Connection(1, true)));
        assert_eq!(pool.take(&"a"), None);
        assert_eq!(pool.len(), 1);
    }

    #[test]
    fn keeps_no_more_than_its_size_and_drops_the_oldest() {
        let pool = Pool::default();
        for number in 1..=3 {
            pool.put(&"a", Connection(number, true), LONG, 2);
        }
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.take(&"a"), Some(Connection(3, true)));
        assert_eq!(pool.take(&"a"), Some(Connection(2, true)));
    }

    #[test]
    fn never_gives_out_the_dead_or_expired() {
        let pool = Pool::default();
        pool.put(&"a", Connection(1, true), LONG, 9);
        pool.put(&"a", Connection(2, false), LONG, 9);
        pool.put(&"a", Connection(3, true), Some(Duration::ZERO), 9);
        assert_eq!(pool.take(&"a"), Some(Connection(1, true)));
        assert!(pool.is_empty());
    }

    #[test]
    fn sweeping_drops_the_dead_and_tells_when_it_is_empty() {
        let pool = Pool::default();
        assert!(pool.put(&"a", Connection(1, false), LONG, 9));
        assert!(!pool.put(&"b", Connection(2, true), LONG, 9));
        assert!(pool.sweep());
        assert_eq!(pool.len(), 1);
        pool.take(&"b");
        assert!(!pool.sweep());
    }
}
