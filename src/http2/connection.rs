//! One connection and the clients that share it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::SendRequest;
use http::Request;
use tokio::sync::Notify;

use super::coming::Coming;
use super::fault::Fault;
use super::wire::Health;

/// See the module.
#[derive(Debug)]
pub struct Connection {
    state: Mutex<State>,
    /// Whether there may be a free place, for a look without the lock: somebody who needs one may
    /// pass by a lot of connections.
    has_room: AtomicBool,
    health: Arc<Health>,
    /// Tells the driver that there is something to watch for.
    pub(super) nudge: Notify,
}

/// What the driver and those who share the connection know of it.
#[derive(Debug)]
pub(super) struct State {
    /// `None` once no new stream is let in: h2 ends the connection behind the last one.
    pub(super) sender: Option<SendRequest<Bytes>>,
    /// Clients that have a place.
    pub(super) taken: usize,
    /// The server's MAX_CONCURRENT_STREAMS.
    pub(super) limit: usize,
    /// How often a place was taken.
    pub(super) lent: u32,
    /// When the last place was given back.
    pub(super) idle_since: Instant,
    /// Streams that somebody waits for.
    pub(super) streams: usize,
    /// Since when there has always been one.
    pub(super) waiting_since: Instant,
    /// When the last one was opened.
    pub(super) opened: Instant,
    /// How long it may be idle; `None` for ever.
    pub(super) idle_for: Option<Duration>,
    /// Somebody's time ran out: whether the server is still there has to be found out.
    pub(super) suspected: bool,
    /// It ends when nobody has a place any more.
    pub(super) is_last: bool,
    /// The server did not answer a ping.
    pub(super) silent: bool,
    /// It has answered some, and may be silent for longer, until a stream is opened.
    pub(super) is_trusted: bool,
}

impl Connection {
    /// One that lets in `limit` streams at a time through `sender`, and ends when it has been idle for
    /// that time.
    pub(super) fn new(
        sender: SendRequest<Bytes>,
        limit: usize,
        health: Arc<Health>,
        idle_for: Option<Duration>,
    ) -> Arc<Self> {
        let state = State {
            sender: Some(sender),
            taken: 0,
            limit,
            lent: 0,
            idle_since: Instant::now(),
            streams: 0,
            waiting_since: Instant::now(),
            opened: Instant::now(),
            idle_for,
            suspected: false,
            is_last: false,
            silent: false,
            is_trusted: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            has_room: AtomicBool::new(true),
            health,
            nudge: Notify::new(),
        })
    }

    /// Takes a place on it, if there is one: how often one was taken before.
    pub fn take_place(&self) -> Option<u32> {
        if !self.has_room.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        if !state.has_room() || state.has_expired() {
            return None;
        }
        state.taken += 1;
        state.lent += 1;
        let before = state.lent - 1;
        self.note_room(&state);
        Some(before)
    }

    /// To be called when something of it has changed.
    pub(super) fn note_room(&self, state: &State) {
        self.has_room.store(state.has_room(), Ordering::Relaxed);
    }

    /// Gives a place back.
    pub fn give_place_back(&self) {
        let mut state = self.lock();
        state.taken -= 1;
        state.idle_since = Instant::now();
        self.retire_behind_last(state);
    }

    /// Sets for how long it may be idle from now on.
    pub fn set_idle_time(&self, time: Option<Duration>) {
        self.lock().idle_for = time;
    }

    /// Whether nobody has a place.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.is_open() && state.taken == 0
    }

    /// Whether it has been idle for too long.
    pub fn has_expired(&self) -> bool {
        self.lock().has_expired()
    }

    /// The server's MAX_CONCURRENT_STREAMS.
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Whether it can carry another stream at all.
    pub fn is_open(&self) -> bool {
        self.lock().is_open()
    }

    /// Gives nobody a place any more, and ends the connection when those that there are have been given
    /// back: whoever has one may open streams, as on a connection in hand.
    pub fn close_to_others(&self) {
        let mut state = self.lock();
        state.is_last = true;
        self.retire_behind_last(state);
    }

    fn retire_behind_last(&self, state: MutexGuard<'_, State>) {
        self.note_room(&state);
        let is_over = state.is_last && state.taken == 0;
        drop(state);
        if is_over {
            self.retire();
        }
    }

    /// Lets in no new stream, and ends the connection behind those that there are.
    pub fn retire(&self) {
        let sender = self.lock().sender.take();
        drop(sender);
        self.nudge.notify_one();
    }

    /// Has the driver find out whether the server is still there, unless it has been heard of since.
    /// One that is slow with one request need not be so with all others.
    pub fn suspect(&self, since: Instant) {
        if self.health.last_read() < since {
            self.lock().suspected = true;
            self.nudge.notify_one();
        }
    }

    /// Whether it was given up since the server did not answer a ping.
    pub fn is_silent(&self) -> bool {
        self.lock().silent
    }

    /// What is known of its bytes.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// The connection takes no new ones.
    pub async fn open(
        self: &Arc<Self>,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<Stream, Fault> {
        let Some(sender) = self.lock().sender.clone() else {
            // Nothing of it has been sent.
            return Err(Fault::Unprocessed("NO_ERROR".to_owned()));
        };
        let mut sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(error) => return Err(Fault::unsent(&error)),
        };
        let opened = sender.send_request(request, is_whole);
        let (response, body) = opened.map_err(|error| Fault::unsent(&error))?;
        Ok(Stream {
            response: Coming::new(response),
            body,
            in_flight: InFlight::new(self.clone()),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on its way, and what is to come of it.
#[derive(Debug)]
pub struct Stream {
    /// The head of the response.
    pub response: Coming,
    /// Where the body of the request goes.
    pub body: SendStream<Bytes>,
    /// Keeps the server under watch.
    pub in_flight: InFlight,
}

/// Somebody waits for a stream for as long as this is there.
#[derive(Debug)]
pub struct InFlight(Arc<Connection>);

impl InFlight {
    fn new(connection: Arc<Connection>) -> Self {
        let mut state = connection.lock();
        state.streams += 1;
        state.opened = Instant::now();
        let is_first = state.streams == 1;
        if is_first {
            state.waiting_since = state.opened;
        }
        let is_watched = !is_first && !state.is_trusted;
        state.is_trusted = false;
        drop(state);
        if !is_watched {
            connection.nudge.notify_one();
        }
        Self(connection)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.streams -= 1;
        let is_over = state.streams == 0 && !state.is_open();
        drop(state);
        if is_over {
            self.0.nudge.notify_one();
        }
    }
}

impl State {
    pub(super) fn is_open(&self) -> bool {
        self.sender.is_some()
    }

    fn has_room(&self) -> bool {
        self.is_open() && !self.is_last && !self.suspected && self.taken < self.limit
    }

    fn has_expired(&self) -> bool {
        let expired = |time| self.idle_since.elapsed() >= time;
        self.taken == 0 && self.idle_for.is_some_and(expired)
    }
}
