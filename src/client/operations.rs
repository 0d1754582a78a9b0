//! The operations of a client, as the Lua thread calls them.

use std::sync::Arc;
use std::time::Duration;

use super::body::{Body, Taken};
use super::connect::{GateOptions, Route, open, open_bounded, upgrade};
use super::lease::Lease;
use super::link::Link;
use super::reading::respond;
use super::sharing::obtain;
use super::state::{Phase, Shared, Summary, Until, Waiter};
use super::streams;
use super::trace::Trace;
use super::transact::{Exchange, Written, write};
use super::{Connection, Destination, Timeouts};
use crate::error::{Error, Result, Stage};
use crate::http1::Header;
use crate::mailbox::Completion;
use crate::runtime::Engine;

/// What one `httpc` owns: at most one connection, at most one operation on it.
///
/// An operation is complete when its [`Completion`] is dropped, and [`Client::outcome`] tells how
/// it ended. Dropping the client cancels what is going on and closes the connection.
#[derive(Debug)]
pub struct Client {
    engine: &'static Engine,
    shared: Arc<Shared>,
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
        state.phase = Phase::Idle(link);
        true
    }

    fn find(&self, destination: &Arc<Destination>) -> Option<Link> {
        if let Some(lease) = self.engine.sharing.lend(destination) {
            self.engine.stats.connections_reused.increment();
            return Some(Link::Shared(Box::new(lease)));
        }
        let mut connection = self.engine.pool.take(destination)?;
        self.engine.count_reuse(&mut connection);
        Some(Link::Own(connection))
    }

    /// Operation: opens a connection.
    pub fn connect(
        &mut self,
        route: Route,
        gate: Option<GateOptions>,
        timeouts: Timeouts,
        completion: Completion,
    ) {
        self.close();
        let shared = self.shared.clone();
        let engine = self.engine;
        self.begin(async move {
            let mut trace = Trace::default();
            let connected = match gate {
                None => obtain(engine, route, timeouts, &mut trace).await,
                Some(gate) => open_bounded(engine, route, gate, timeouts, &mut trace).await,
            };
            shared.connected(connected, trace, completion);
        });
    }

    /// Operation: runs the TLS handshake of `destination` on a connection that is plain so far. An
    /// idle connection to the same destination is taken in its place, if there is one.
    ///
    /// # Errors
    ///
    /// There is no connection, or another operation has it.
    pub fn handshake(
        &mut self,
        destination: Arc<Destination>,
        timeouts: Timeouts,
        completion: Completion,
    ) -> Result<()> {
        let mut connection = match self.take_link()? {
            Link::Own(connection) => connection,
            link @ Link::Shared(_) => {
                self.shared.lock().phase = Phase::Idle(link);
                return Err(Error::bad_argument("a TLS handshake cannot follow HTTP/2"));
            }
        };
        let shared = self.shared.clone();
        let engine = self.engine;
        self.begin(async move {
            let mut trace = Trace::default();
            let connected = match engine.pool.take(&destination) {
                Some(mut pooled) => {
                    engine.count_reuse(&mut pooled);
                    pooled.permit = connection.permit.take();
                    Ok(pooled)
                }
                None => upgrade(engine, *connection, destination, timeouts, &mut trace)
                    .await
                    .map(Box::new),
            };
            let connected = connected.map(Link::Own);
            shared.connected(connected, trace, completion);
        });
        Ok(())
    }

    /// Operation: sends a request and reads the head of its response. The body is read ahead by the
    /// same task, so that a small response is there in one wake.
    ///
    /// # Errors
    ///
    /// There is no connection, or another operation has it.
    pub fn request(&self, exchange: Exchange, completion: Completion) -> Result<()> {
        let link = self.take_link()?;
        if link.responses_due() > 0 {
            self.shared.lock().phase = Phase::Idle(link);
            return Err(Error::bad_argument(
                "the response to an earlier request has not been read",
            ));
        }
        let mut connection = match link {
            Link::Own(connection) => connection,
            Link::Shared(lease) => {
                self.engine.stats.requests.increment();
                let (engine, shared) = (self.engine, self.shared.clone());
                self.begin(streams::request(
                    engine, shared, lease, exchange, completion,
                ));
                return Ok(());
            }
        };
        self.check_clean(&mut connection)?;
        self.engine.stats.requests.increment();
        connection.responses_due += 1;
        connection.begin_request();
        let first = exchange.continue_at.unwrap_or(exchange.bytes().len());
        let sent = connection.write_now(&exchange.bytes()[..first]);
        let shared = self.shared.clone();
        let engine = self.engine;
        self.begin(async move {
            let mut result = exchange.run(&mut connection, sent).await;
            if let Err(failed) = &result
                && failed.unanswered
                && exchange.retry_stale
                && connection.reused > 0
            {
                engine.stats.retries.increment();
                let route = connection.route().clone();
                let permit = connection.permit.take();
                let mut trace = Trace::default();
                // Boxed, as all that is rare here: each request moves what its task may ever need.
                let fresh = Box::pin(open(engine, route, exchange.timeouts, &mut trace)).await;
                match fresh.and_then(Link::into_own) {
                    Ok(fresh) => {
                        connection = fresh;
                        connection.permit = permit;
                        connection.responses_due = 1;
                        connection.begin_request();
                        result = exchange.run(&mut connection, 0).await;
                    }
                    Err(error) => return shared.conclude(Phase::Closed, Err(error), completion),
                }
            }
            match result {
                Ok((head, framing)) => {
                    respond(shared, connection, exchange, head, framing, completion).await;
                }
                Err(failed) => shared.conclude(Phase::Closed, Err(failed.error), completion),
            }
        });
        Ok(())
    }

    /// Operation: writes part of a request body, never more than the head has announced: the server
    /// would take the rest for the next request.
    ///
    /// # Errors
    ///
    /// There is no connection, another operation has it, or the body is too long.
    pub fn send(&self, bytes: Vec<u8>, timeouts: Timeouts, completion: Completion) -> Result<()> {
        let mut link = self.take_link()?;
        if let Some(body_left) = link.body_left() {
            match body_left.checked_sub(bytes.len() as u64) {
                Some(left) => *body_left = left,
                None => {
                    self.shared.lock().phase = Phase::Closed;
                    return Err(Error::bad_body(
                        "the request body is longer than its Content-Length",
                    ));
                }
            }
        }
        match link {
            Link::Own(connection) => self.write(connection, bytes, timeouts, completion),
            Link::Shared(lease) => {
                let (shared, bytes) = (self.shared.clone(), bytes.into());
                self.begin(streams::send(
                    shared, lease, bytes, false, timeouts, completion,
                ));
            }
        }
        Ok(())
    }

    /// Ends a request body that came in pieces.
    ///
    /// # Errors
    ///
    /// It is shorter than the head has announced. The connection is closed: the server waits for
    /// the rest.
    pub fn finish_body(&mut self) -> Result<()> {
        let mut state = self.shared.lock();
        let left = match &mut state.phase {
            Phase::Idle(link) => link.end_body(),
            _ => 0,
        };
        drop(state);
        if left == 0 {
            return Ok(());
        }
        self.close();
        Err(Error::bad_body(format!(
            "the request body ended {left} bytes short of its Content-Length"
        )))
    }

    fn write(
        &self,
        mut connection: Box<Connection>,
        bytes: Vec<u8>,
        timeouts: Timeouts,
        completion: Completion,
    ) {
        let sent = connection.write_now(&bytes);
        let shared = self.shared.clone();
        self.begin(async move {
            match write(&mut connection, &bytes[sent..], timeouts).await {
                Ok(written) => {
                    // What the server has said instead of reading on is for `receive` to read.
                    connection.keeps_alive &= written == Written::Whole;
                    let outcome = match written {
                        Written::Whole => Ok(()),
                        Written::Partly => Err(Error::closed(Stage::Send)),
                    };
                    shared.conclude(Phase::Idle(Link::Own(connection)), outcome, completion);
                }
                Err(error) => shared.conclude(Phase::Closed, Err(error), completion),
            }
        });
    }

    /// Operation: reads the response to what was sent.
    ///
    /// # Errors
    ///
    /// There is no connection, or another operation has it.
    pub fn receive(&self, exchange: Exchange, completion: Completion) -> Result<()> {
        let shared = self.shared.clone();
        let mut connection = match self.take_link()? {
            Link::Own(connection) => connection,
            Link::Shared(lease) => {
                self.begin(streams::receive(shared, lease, exchange, completion));
                return Ok(());
            }
        };
        self.begin(async move {
            let head = exchange.read_response(&mut connection).await;
            match head.and_then(|head| exchange.framed(&mut connection, head)) {
                Ok((head, framing)) => {
                    respond(shared, connection, exchange, head, framing, completion).await;
                }
                Err(error) => shared.conclude(Phase::Closed, Err(error), completion),
            }
        });
        Ok(())
    }

    /// Operation: waits for a 100 (Continue) to the head that was sent. If the server declines the
    /// body there is a response afterwards, as with [`Self::receive`].
    ///
    /// # Errors
    ///
    /// There is no connection, or another operation has it.
    pub fn await_continue(&self, exchange: Exchange, completion: Completion) -> Result<()> {
        let mut connection = self.take_link()?.into_own()?;
        let shared = self.shared.clone();
        self.begin(async move {
            let declined = match exchange.await_continue(&mut connection).await {
                Ok(Some(head)) => exchange.framed(&mut connection, head),
                Ok(None) => {
                    let phase = Phase::Idle(Link::Own(connection));
                    return shared.conclude(phase, Ok(()), completion);
                }
                Err(error) => Err(error),
            };
            match declined {
                Ok((head, framing)) => {
                    respond(shared, connection, exchange, head, framing, completion).await;
                }
                Err(error) => shared.conclude(Phase::Closed, Err(error), completion),
            }
        });
        Ok(())
    }

    /// How the last operation ended. An operation that was cancelled has left no outcome.
    ///
    /// # Errors
    ///
    /// The operation's error.
    pub fn outcome(&self) -> Result<()> {
        let outcome = self.shared.lock().outcome.take();
        outcome.unwrap_or_else(|| Err(Error::closed(Stage::Connect)))
    }

    /// The response head, once.
    pub fn take_head(&self) -> Option<Summary> {
        self.shared.lock().response.as_mut()?.summary.take()
    }

    /// Operation: writes a request, or its head, and reads nothing.
    ///
    /// # Errors
    ///
    /// There is no connection, or another operation has it.
    pub fn send_request(&self, exchange: Exchange, completion: Completion) -> Result<()> {
        let mut connection = match self.take_link()? {
            Link::Own(connection) => connection,
            Link::Shared(lease) => {
                self.engine.stats.requests.increment();
                let shared = self.shared.clone();
                self.begin(streams::send_request(shared, lease, exchange, completion));
                return Ok(());
            }
        };
        self.check_clean(&mut connection)?;
        self.engine.stats.requests.increment();
        let (announced, timeouts) = (exchange.announced, exchange.timeouts);
        let first = exchange.continue_at.unwrap_or(exchange.bytes().len());
        let bytes = exchange.bytes()[..first].to_vec();
        if connection.responses_due == 0 {
            connection.begin_request();
        }
        connection.responses_due += 1;
        connection.body_left = announced;
        self.write(connection, bytes, timeouts, completion);
        Ok(())
    }

    /// Takes the next part of the body: at most `max` bytes, or else a wire chunk or all of it.
    ///
    /// # Errors
    ///
    /// Why the body ended early.
    pub fn take_part<T>(
        &self,
        max: Option<usize>,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Result<Taken<T>> {
        self.take(|body| body.take(max, give))
    }

    /// Takes the rest of the body.
    ///
    /// # Errors
    ///
    /// Why the body ended early.
    pub fn take_whole<T>(&self, give: impl FnOnce(&[u8]) -> T) -> Result<Taken<T>> {
        self.take(|body| body.take_all(give))
    }

    /// Bytes of the body that have come and were not taken.
    pub fn buffered(&self) -> usize {
        let state = self.shared.lock();
        let response = state.response.as_ref();
        response.map_or(0, |response| response.body.buffered())
    }

    /// Operation: waits until [`Self::take_part`] or [`Self::take_whole`] has something to say.
    pub fn await_body(&self, until: Until, completion: Completion) {
        let mut state = self.shared.lock();
        let done = match &mut state.response {
            None => Some(completion),
            Some(response) => {
                match until {
                    Until::Part(max) => response.body.want(max),
                    Until::Whole => response.body.want_all(),
                }
                let replaced = response.waiter.replace(Waiter { until, completion });
                drop(replaced);
                response.satisfied()
            }
        };
        drop(state);
        drop(done);
        self.shared.changed.notify_one();
    }

    /// Trailer fields of the response, after its body.
    pub fn trailers(&self) -> Vec<Header> {
        let state = self.shared.lock();
        let body = state.response.as_ref().map(|response| &response.body);
        body.map(|body| body.trailers().to_vec())
            .unwrap_or_default()
    }

    /// How the last connection of this client came to be, or how far it came.
    pub fn trace(&self) -> Option<Arc<Trace>> {
        self.shared.lock().trace.clone()
    }

    /// How long the response took, opening the connection included: to the end of its body if that
    /// has come, and else to the end of its head.
    pub fn total_time(&self) -> Option<Duration> {
        let state = self.shared.lock();
        let response = state.response.as_ref()?;
        let end = response.body.ended_at().unwrap_or(response.timing.head);
        Some(response.timing.total(end))
    }

    /// How often the connection came out of the pool, if there is one.
    pub fn reused_times(&self) -> Option<u32> {
        match &self.shared.lock().phase {
            Phase::Idle(link) => Some(link.reused()),
            Phase::Busy(reused) => *reused,
            Phase::Closed => None,
        }
    }

    /// Gives the connection to the pool for `timeout`, if it can carry another request.
    pub fn keep_alive(&mut self, timeout: Option<Duration>, size: usize) -> Released {
        let mut state = self.shared.lock();
        let unread = matches!(&state.response, Some(response) if !response.body.is_complete());
        if matches!(state.phase, Phase::Closed) {
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
        if !connection.keeps_alive || connection.has_unread() {
            connection.close();
            return Released::Closed;
        }
        connection.settle();
        let destination = connection.destination().clone();
        let permit = connection.permit.take();
        if self
            .engine
            .pool
            .put(&destination, connection, timeout, size)
        {
            self.engine.spawn(sweep(self.engine));
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
        drop(state);
        let woken = response.as_mut().and_then(|response| {
            // What has come stays readable; what has not will not.
            response.body.finish(Err(Error::closed(Stage::Body)));
            response.satisfied()
        });
        // A cancelled task may be running its last step on the other thread. It must not find, and
        // change, the state of what comes after it: that could be a connection of another identity.
        self.shared = Arc::new(Shared::with_rest(response, trace));
        drop(woken);
        if let Some(task) = task {
            task.abort();
        }
        match phase {
            Phase::Idle(link) => {
                link.close();
                true
            }
            Phase::Busy(_) => true,
            Phase::Closed => false,
        }
    }

    fn take<T>(&self, take: impl FnOnce(&mut Body) -> Result<Taken<T>>) -> Result<Taken<T>> {
        let mut state = self.shared.lock();
        let Some(response) = &mut state.response else {
            return Err(Error::closed(Stage::Body).with_hint(
                "the response is gone: read its body before set_keepalive, close or the next \
                 request",
            ));
        };
        let was_full = response.body.is_full();
        let taken = take(&mut response.body);
        // Waking the reading task costs a system call: only if it stopped for want of room.
        let resumes = was_full && !response.body.is_full() && !response.body.is_finished();
        drop(state);
        if resumes {
            self.shared.changed.notify_one();
        }
        taken
    }

    fn take_link(&self) -> Result<Link> {
        let mut state = self.shared.lock();
        match std::mem::replace(&mut state.phase, Phase::Busy(None)) {
            Phase::Idle(link) => {
                state.phase = Phase::Busy(Some(link.reused()));
                state.outcome = None;
                state.response = None;
                Ok(link)
            }
            Phase::Closed => {
                state.phase = Phase::Closed;
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

    /// Whether a request can follow on a connection that was just taken. What the server has sent
    /// unasked would be taken for its response, and the rest of a body for its head.
    fn check_clean(&self, connection: &mut Connection) -> Result<()> {
        let is_body_due = connection.body_left.is_some_and(|left| left > 0);
        let is_unasked = connection.responses_due == 0 && connection.has_data();
        if !is_body_due && !is_unasked {
            return Ok(());
        }
        self.shared.lock().phase = Phase::Closed;
        Err(match is_body_due {
            true => Error::bad_body("the body of the previous request has not been sent"),
            false => Error::closed(Stage::Send)
                .with_hint("the server sent what no request had asked for: see its log"),
        })
    }

    fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Locked before the task can run, so that its end does not come before its handle.
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Closed) {
            state.phase = Phase::Busy(None);
        }
        state.outcome = None;
        state.task = Some(self.engine.spawn(task));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}

/// Looks after idle connections while there are any: drops what expired or what the server closed.
async fn sweep(engine: &'static Engine) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.look_at_files();
        if !engine.pool.sweep() {
            return;
        }
    }
}

impl Engine {
    /// Loads what has changed of the files that profiles name. Idle connections under the old ones are
    /// dropped when they are looked at next.
    pub fn look_at_files(&self) {
        let due = self.profiles.due();
        if !due.is_empty() {
            // What comes of it is in the log.
            let look = move || due.iter().for_each(|profile| drop(profile.load()));
            tokio::task::spawn_blocking(look);
        }
    }
}
