//! Threads, which the system may not give.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Runs what blocks on a helper thread.
///
/// # Errors
///
/// The system gives no thread, and there is none.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let slot = Arc::new(Mutex::new(Some(work)));
    let take = |slot: &Mutex<Option<_>>| slot.lock().unwrap_or_else(PoisonError::into_inner).take();
    let given = slot.clone();
    let begin = move || match take(&given) {
        Some(work) => work(),
        // Nobody waits for this: see below. It is no panic that anybody is told of.
        None => resume_unwind(Box::new(())),
    };
    // tokio panics if it has no thread to give the work to.
    let begun = match probe() {
        Ok(()) => catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(begin)))
            .map_err(|_| io::Error::from_raw_os_error(libc::EAGAIN)),
        Err(error) => Err(error),
    };
    REFUSED.store(begun.is_err(), Ordering::Relaxed);
    begun.map_err(|error| {
        // It stays in tokio's queue for the next thread, which may never come: whoever could ask for
        // one may wait for what the work holds, such as a place among the look-ups.
        drop(take(&slot));
        none("cannot start a helper thread", &error)
    })
}

/// Whether the system gave no thread when one was asked for last.
static REFUSED: AtomicBool = AtomicBool::new(false);

/// Asks for a thread before tokio does, which would keep something of each work that it has no thread
/// for, as long as there are none.
fn probe() -> io::Result<()> {
    if !REFUSED.load(Ordering::Relaxed) {
        return Ok(());
    }
    std::thread::Builder::new().spawn(|| ()).map(drop)
}

/// The error for a thread that the system does not give.
pub fn none(what: &str, error: &io::Error) -> Error {
    let told = Error::internal(format!("{what}: {error}"));
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM) => told.with_hint(
            "the system gives no thread: raise the limit (ulimit -u, pids.max of the container, \
             TasksMax of systemd) or give it more memory",
        ),
        _ => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_gets_no_thread_is_dropped_and_holds_nothing() {
        // No thread has so large a stack.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .thread_stack_size(1 << 60)
            .build()
            .unwrap();
        let held = Arc::new(());
        for _ in 0..3 {
            let holds = held.clone();
            let refused = runtime.block_on(async { spawn_blocking(move || drop(holds)) });
            assert!(refused.is_err_and(|error| error.hint().is_some()));
            assert_eq!(Arc::strong_count(&held), 1);
        }
        let other = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let done = other.block_on(async { spawn_blocking(|| 7).unwrap().await });
        assert_eq!(done.unwrap(), 7);
    }
}
