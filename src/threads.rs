//! Threads, which the system may not give.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
    // tokio panics if it has no thread to give the work to.
    catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(work))).map_err(|_| {
        let error = io::Error::from_raw_os_error(libc::EAGAIN);
        none("cannot start a helper thread", &error)
    })
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
