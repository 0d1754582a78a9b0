//! Idle connections, by what makes them interchangeable.
//!
//! The pool knows neither sockets nor Lua: a key that is hashed and compared, and a connection that
//! can say whether it is still good.

use std::collections::{HashMap, VecDeque};
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
    /// Those that were put back last are at the end.
    idle: HashMap<K, VecDeque<Pooled<C>>>,
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

/// What putting a connection in came to.
#[derive(Debug)]
pub struct Put<C> {
    /// The caller has to see to it that the pool is swept from now on.
    pub needs_sweeper: bool,
    /// Those that have been idle for longest, of more than there may be.
    pub evicted: Vec<C>,
}

/// What a sweep came to.
#[derive(Debug)]
pub struct Swept<C> {
    /// What has expired or died. Closing them takes longer than finding them.
    pub dropped: Vec<C>,
    /// Whether something is left, so that sweeping goes on.
    pub goes_on: bool,
}

/// Dead connections that are looked at for one that is alive. If a server that had thousands of them
/// is gone, they are for the sweeper, and not for whoever needs one.
const MAX_DEAD: usize = 32;

impl<K: Hash + Eq + Clone, C: Idle> Pool<K, C> {
    /// The usable connection that was put back last. Those found dead on the way are dropped.
    pub fn take(&self, key: &K) -> Option<C> {
        let mut dead = Vec::new();
        let mut state = self.lock();
        let connections = state.idle.get_mut(key)?;
        let now = Instant::now();
        let mut found = None;
        while dead.len() < MAX_DEAD
            && let Some(mut pooled) = connections.pop_back()
        {
            let fresh = pooled.expires.is_none_or(|expires| expires > now);
            if fresh && pooled.connection.is_usable() {
                found = Some(pooled.connection);
                break;
            }
            dead.push(pooled.connection);
        }
        if connections.is_empty() {
            state.idle.remove(key);
        }
        drop(state);
        drop(dead);
        found
    }

    /// Drops all of them. Nobody sweeps from now on.
    pub fn clear(&self) {
        let mut state = self.lock();
        let idle = std::mem::take(&mut state.idle);
        state.swept = false;
        drop(state);
        drop(idle);
    }

    /// Puts a connection in for `timeout` (for ever if `None`), in the place of those that have been
    /// idle for longest beyond `size`.
    pub fn put(&self, key: &K, connection: C, timeout: Option<Duration>, size: usize) -> Put<C> {
        let mut state = self.lock();
        // Time-outs of centuries would overflow the clock; they mean "for ever" as well.
        let expires = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let connections = match state.idle.get_mut(key) {
            Some(connections) => connections,
            None => state.idle.entry(key.clone()).or_default(),
        };
        connections.push_back(Pooled {
            connection,
            expires,
        });
        let over = connections.len().saturating_sub(size.max(1));
        let evicted = connections.drain(..over);
        Put {
            evicted: evicted.map(|pooled| pooled.connection).collect(),
            needs_sweeper: !std::mem::replace(&mut state.swept, true),
        }
    }

    /// Takes out what has expired or died.
    pub fn sweep(&self) -> Swept<C> {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let now = Instant::now();
        state.idle.retain(|_, connections| {
            // Once around: what stays is in the order in which it was.
            for _ in 0..connections.len() {
                let Some(mut pooled) = connections.pop_front() else {
                    break;
                };
                let fresh = pooled.expires.is_none_or(|expires| expires > now);
                match fresh && pooled.connection.seems_usable() {
                    true => connections.push_back(pooled),
                    false => dropped.push(pooled.connection),
                }
            }
            connections.shrink_to(connections.len() * 4);
            !connections.is_empty()
        });
        state.swept = !state.idle.is_empty();
        Swept {
            dropped,
            goes_on: state.swept,
        }
    }

    /// Tells how many idle connections each key has.
    pub fn each_idle(&self, mut tell: impl FnMut(&K, usize)) {
        for (key, connections) in &self.lock().idle {
            tell(key, connections.len());
        }
    }

    /// Number of idle connections.
    pub fn len(&self) -> usize {
        self.lock().idle.values().map(VecDeque::len).sum()
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
            let put = pool.put(&"a", Connection(number, true), LONG, 2);
            assert_eq!(put.evicted.len(), usize::from(number == 3));
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
        assert!(pool.put(&"a", Connection(1, false), LONG, 9).needs_sweeper);
        assert!(!pool.put(&"b", Connection(2, true), LONG, 9).needs_sweeper);
        let swept = pool.sweep();
        assert!(swept.goes_on);
        assert_eq!(swept.dropped, [Connection(1, false)]);
        assert_eq!(pool.len(), 1);
        pool.take(&"b");
        assert!(!pool.sweep().goes_on);
    }

    #[test]
    fn sweeping_keeps_the_order() {
        let pool = Pool::default();
        for number in 1..=5 {
            pool.put(&"a", Connection(number, number != 3), LONG, 9);
        }
        assert_eq!(pool.sweep().dropped, [Connection(3, false)]);
        for number in [5, 4, 2, 1] {
            assert_eq!(pool.take(&"a"), Some(Connection(number, true)));
        }
    }

    #[test]
    fn who_needs_one_does_not_go_through_thousands_that_are_dead() {
        let pool = Pool::default();
        pool.put(&"a", Connection(0, true), LONG, 10_000);
        for number in 1..=9_999 {
            pool.put(&"a", Connection(number, false), LONG, 10_000);
        }
        assert_eq!(pool.take(&"a"), None);
        assert_eq!(pool.len(), 10_000 - MAX_DEAD);
        assert_eq!(pool.sweep().dropped.len(), 9_999 - MAX_DEAD);
        assert_eq!(pool.take(&"a"), Some(Connection(0, true)));
    }
}
