//! Gives memory back to the system when a crowd has gone.
//!
//! glibc keeps what is freed, but for what is at the end of its heap, and there something is always
//! left: a worker that once had thousands of connections would stay as large as it was then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::threads;

/// How many connections and operations there were at a time.
#[derive(Debug, Default)]
pub struct Crowd {
    /// The most since memory was given back.
    peak: AtomicU64,
    given_back: Mutex<Option<Instant>>,
    /// Whether somebody waits to give memory back.
    waits: AtomicBool,
}

/// Fewer leave too little behind.
const MANY: u64 = 512;

/// Looking for memory takes milliseconds, in which others who want some may have to wait.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is closed is not all free at once: of each socket, the runtime keeps a little until it comes
/// by, and that little would keep a page.
const PAUSE: Duration = Duration::from_secs(1);

impl Crowd {
    /// Notes how many there are, of those that the caller knows of.
    pub fn note(&self, count: u64) {
        if count > self.peak.load(Ordering::Relaxed) {
            self.peak.store(count, Ordering::Relaxed);
        }
    }

    /// Has memory given back by a helper thread soon, if most of them have gone, but not if that was done a
    /// moment ago. For whoever comes by each second; `count` tells how many there are.
    pub fn look(&'static self, count: impl Fn() -> u64 + Send + 'static) {
        self.note(count());
        if !self.has_gone(count()) || self.waits.swap(true, Ordering::Relaxed) {
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(self.time_left(Instant::now()).max(PAUSE)).await;
            self.waits.store(false, Ordering::Relaxed);
            let count = count();
            if self.has_gone(count) {
                self.peak.store(count, Ordering::Relaxed);
                self.give_back().await;
                // Lua collects the clients of a crowd some time after it has gone.
                tokio::time::sleep(INTERVAL).await;
                self.give_back().await;
            }
        });
    }

    /// Whoever was about to give memory back does not come to it any more.
    pub fn clear(&self) {
        self.waits.store(false, Ordering::Relaxed);
    }

    async fn give_back(&self) {
        *self.lock() = Some(Instant::now());
        if let Ok(giving) = threads::spawn_blocking(give_back) {
            let _ = giving.await;
        }
    }

    fn has_gone(&self, count: u64) -> bool {
        let peak = self.peak.load(Ordering::Relaxed);
        peak >= MANY && count <= peak / 4
    }

    fn time_left(&self, now: Instant) -> Duration {
        match *self.lock() {
            Some(at) => (at + INTERVAL).saturating_duration_since(now),
            None => Duration::ZERO,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.given_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes glibc's own locks, and touches only what nobody has allocated.
    unsafe {
        libc::malloc_trim(0)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_has_gone_when_three_of_four_have() {
        let crowd = Crowd::default();
        (1..=1000).for_each(|count| crowd.note(count));
        crowd.note(1);
        assert!(!crowd.has_gone(1000));
        assert!(!crowd.has_gone(251));
        assert!(crowd.has_gone(250));
    }

    #[test]
    fn a_few_are_no_crowd() {
        let crowd = Crowd::default();
        crowd.note(MANY - 1);
        assert!(!crowd.has_gone(0));
    }

    #[test]
    fn memory_is_given_back_now_and_then() {
        let (crowd, now) = (Crowd::default(), Instant::now());
        assert_eq!(crowd.time_left(now), Duration::ZERO);
        *crowd.lock() = Some(now);
        assert_eq!(crowd.time_left(now + INTERVAL / 4), INTERVAL / 4 * 3);
        assert_eq!(crowd.time_left(now + INTERVAL * 2), Duration::ZERO);
    }
}
