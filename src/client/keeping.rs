//! A client and its connection: where it gets one without waiting, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use super::lease::Lease;
use super::link::Link;
use super::state::{Attempt, Phase, Shared};
use super::{Connection, Destination};
use crate::error::{Error, Result, Stage};
use crate::runtime::Engine;
use crate::threads;

/// What one `httpc` owns: at most one connection, at most one operation on it.
///
/// An operation is complete when its [`Completion`](crate::mailbox::Completion) is dropped, and
/// [`Client::outcome`] tells how it ended. Dropping the client cancels what is going on and closes the
/// connection.
#[derive(Debug)]
pub struct Client {
    pub(super) engine: &'static Engine,
    pub(super) shared: Arc<Shared>,
}

/// What closing or giving back a connection came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// In the pool.
    Pooled,
    /// Closed, since the server or the request does not allow another one on it.
    Closed,
    /// Closed, since the response has not been read to its end.
    Unread,
    /// There was none.
    None,
}

impl Client {
    /// A client without a connection.
    pub fn new(engine: &'static Engine) -> Self {
        Self {
            engine,
            shared: Arc::default(),
        }
    }

    /// The engine that this client runs on.
    pub fn engine(&self) -> &'static Engine {
        self.engine
    }

    /// Takes an idle connection from the pool, if there is one, without an operation.
    pub fn check_out(&mut self, destination: &Arc<Destination>) -> bool {
        self.close();
        let Some(link) = self.find(destination) else {
            return false;
        };
        let mut state = self.shared.lock();
        state.trace = Some(link.trace().clone());
        state.attempt = Attempt::on(Some(link.reused()));
        state.phase = Phase::Idle(link);
        true
    }

    fn find(&self, destination: &Arc<Destination>) -> Option<Link> {
        if let Some(lease) = self.engine.sharing.lend(destination) {
            lease.tally().connections_reused.increment();
            return Some(Link::Shared(Box::new(lease)));
        }
        let mut connection = self.engine.pool.take(destination)?;
        connection.count_reuse();
        Some(Link::Own(connection))
    }

    /// Gives the connection to the pool for `timeout`, if it can carry another request.
    pub fn keep_alive(&mut self, timeout: Option<Duration>, size: usize) -> Released {
        let mut state = self.shared.lock();
        let unread = matches!(&state.response, Some(response) if !response.body.is_complete());
        if matches!(state.phase, Phase::Closed | Phase::GivenUp) {
            return Released::None;
        }
        if unread || matches!(state.phase, Phase::Busy(_)) {
            drop(state);
            self.close();
            return Released::Unread;
        }
        let phase = std::mem::take(&mut state.phase);
        state.response = None;
        drop(state);
        match phase {
            Phase::Idle(Link::Own(connection)) => self.pool(connection, timeout, size),
            Phase::Idle(Link::Shared(lease)) => self.give_back(*lease, timeout, size),
            _ => Released::None,
        }
    }

    fn pool(
        &self,
        mut connection: Box<Connection>,
        timeout: Option<Duration>,
        size: usize,
    ) -> Released {
        if connection.responses_due > 0 || connection.body_left.is_some_and(|left| left > 0) {
            connection.close();
            return Released::Unread;
        }
        if !connection.keeps_alive || connection.is_lost() || connection.has_unread() {
            connection.close();
            return Released::Closed;
        }
        connection.settle();
        let destination = connection.destination().clone();
        let permit = connection.permit.take();
        let put = self
            .engine
            .pool
            .put(&destination, connection, timeout, size);
        if put.needs_sweeper {
            self.engine.spawn(sweep(self.engine));
        }
        if put.evicted.len() > AT_ONCE {
            self.engine.spawn(discard(put.evicted));
        }
        // Whoever waits for a place finds the connection in the pool.
        drop(permit);
        Released::Pooled
    }

    fn give_back(&self, lease: Lease, timeout: Option<Duration>, size: usize) -> Released {
        if !lease.due.is_empty() {
            return Released::Unread;
        }
        if !lease.is_open() {
            return Released::Closed;
        }
        lease.set_idle_time(timeout);
        let destination = lease.destination().clone();
        drop(lease);
        self.engine.sharing.trim(&destination, size);
        Released::Pooled
    }

    /// How often the connection came out of the pool, if there is one.
    pub fn reused_times(&self) -> Option<u32> {
        match &self.shared.lock().phase {
            Phase::Idle(link) => Some(link.reused()),
            Phase::Busy(reused) => *reused,
            Phase::Closed | Phase::GivenUp => None,
        }
    }

    /// Whether the connection in hand speaks HTTP/2.
    pub fn speaks_http2(&self) -> bool {
        matches!(self.shared.lock().phase, Phase::Idle(Link::Shared(_)))
    }

    /// Lets nobody else use the connection in hand from now on: it ends with its last stream.
    pub fn retire(&self) {
        if let Phase::Idle(Link::Shared(lease)) = &self.shared.lock().phase {
            lease.retire();
        }
    }

    /// Closes the connection and cancels what is going on. False if there was none.
    pub fn close(&mut self) -> bool {
        let mut state = self.shared.lock();
        let phase = std::mem::take(&mut state.phase);
        let task = state.task.take();
        let mut response = state.response.take();
        let trace = state.trace.take();
        let attempt = state.attempt;
        drop(state);
        let woken = response.as_mut().and_then(|response| {
            // What has come stays readable; what has not will not.
            response.body.finish(Err(Error::closed(Stage::Body)));
            response.satisfied()
        });
        // A cancelled task may be running its last step on the other thread. It must not find, and
        // change, the state of what comes after it: that could be a connection of another identity.
        self.shared = Arc::new(Shared::with_rest(response, trace, attempt));
        drop(woken);
        if let Some(task) = task {
            task.abort();
        }
        match phase {
            Phase::Idle(link) => {
                link.close();
                true
            }
            Phase::Busy(_) | Phase::GivenUp => true,
            Phase::Closed => false,
        }
    }

    /// Takes the connection for an operation.
    ///
    /// # Errors
    ///
    /// There is none, or another operation has it.
    pub(super) fn take_link(&self) -> Result<Link> {
        let mut state = self.shared.lock();
        match std::mem::replace(&mut state.phase, Phase::Busy(None)) {
            Phase::Idle(link) if link.is_lost() => {
                state.phase = Phase::Closed;
                drop(state);
                drop(link);
                Err(Error::ended(Stage::Send))
            }
            Phase::Idle(link) => {
                state.phase = Phase::Busy(Some(link.reused()));
                state.attempt = Attempt::on(Some(link.reused()));
                state.outcome = None;
                state.response = None;
                Ok(link)
            }
            none @ (Phase::Closed | Phase::GivenUp) => {
                state.phase = none;
                Err(Error::not_connected())
            }
            busy @ Phase::Busy(_) => {
                state.phase = busy;
                Err(Error::bad_argument(
                    "the connection is busy: another light thread uses it, or the body of the \
                     previous response has not been read",
                ))
            }
        }
    }

    /// Begins what is to end with a completion.
    pub(super) fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Locked before the task can run, so that its end does not come before its handle.
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Closed | Phase::GivenUp) {
            state.phase = Phase::Busy(None);
        }
        state.outcome = None;
        state.task = self.engine.spawn(task);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

/// Connections that are closed at a time. Each takes the kernel a while, in which nothing else is
/// done.
const AT_ONCE: usize = 32;

/// Looks after idle connections while there are any: drops what expired or what the server closed.
async fn sweep(engine: &'static Engine) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.look_at_files();
        let swept = engine.pool.sweep();
        discard(swept.dropped).await;
        engine.crowd.look(|| engine.size());
        if !swept.goes_on {
            return;
        }
    }
}

/// Closes connections, and lets others have their turn in between.
async fn discard<T>(mut connections: Vec<T>) {
    while !connections.is_empty() {
        connections.truncate(connections.len().saturating_sub(AT_ONCE));
        tokio::task::yield_now().await;
    }
}

impl Engine {
    /// Loads what has changed of the files that profiles name. Idle connections under the old ones are
    /// dropped when they are looked at next.
    pub fn look_at_files(&self) {
        for look in self.profiles.due() {
            // What comes of it is in the log. Without a thread they are due again. Each has one of its
            // own: the next ones may be on a file system that does not hang.
            let _ = threads::spawn_blocking(move || look.load());
        }
    }
}
