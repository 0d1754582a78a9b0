//! The operations of a client, as the Lua thread calls them.

use std::sync::Arc;

use super::connect::{GateOptions, Route, open, open_bounded, upgrade};
use super::link::Link;
use super::reading::respond;
use super::sharing::obtain;
use super::state::{Attempt, Phase};
use super::streams;
use super::trace::Trace;
use super::transact::{Exchange, Written, write};
use super::{Client, Connection, Destination, Timeouts};
use crate::error::{Error, Result, Stage};
use crate::mailbox::Completion;

impl Client {
    /// Operation: opens a connection.
    pub fn connect(
        &mut self,
        route: Route,
        gate: Option<GateOptions>,
        timeouts: Timeouts,
        completion: Completion,
    ) {
        self.close();
        self.shared.lock().attempt = Attempt::default();
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
                    pooled.count_reuse();
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
                lease.tally().requests.increment();
                let (engine, shared) = (self.engine, self.shared.clone());
                self.begin(streams::request(
                    engine, shared, lease, exchange, completion,
                ));
                return Ok(());
            }
        };
        self.check_clean(&mut connection)?;
        connection.tally().requests.increment();
        connection.unanswered.begin();
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
                connection.tally().retries.increment();
                let route = connection.route().clone();
                let permit = connection.permit.take();
                drop(connection);
                shared.lock().attempt = Attempt::again(0);
                let mut trace = Trace::default();
                // Boxed, as all that is rare here: each request moves what its task may ever need.
                let fresh = Box::pin(open(engine, route, exchange.timeouts, &mut trace)).await;
                match fresh.and_then(Link::into_own) {
                    Ok(fresh) => {
                        connection = fresh;
                        shared.lock().trace = Some(connection.trace().clone());
                        connection.permit = permit;
                        connection.unanswered.begin();
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
                Err(failed) => {
                    // Whoever is told of the failure finds nothing of it open or in flight.
                    drop(connection);
                    shared.conclude(Phase::Closed, Err(failed.error), completion);
                }
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
                Err(error) => {
                    drop(connection);
                    shared.conclude(Phase::Closed, Err(error), completion);
                }
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
                Err(error) => {
                    drop(connection);
                    shared.conclude(Phase::Closed, Err(error), completion);
                }
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
        let Link::Own(mut connection) = self.take_link()? else {
            // Another light thread has connected this client anew.
            self.shared.lock().phase = Phase::Closed;
            return Err(Error::closed(Stage::Send));
        };
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
                Err(error) => {
                    drop(connection);
                    shared.conclude(Phase::Closed, Err(error), completion);
                }
            }
        });
        Ok(())
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
                lease.tally().requests.increment();
                let shared = self.shared.clone();
                self.begin(streams::send_request(shared, lease, exchange, completion));
                return Ok(());
            }
        };
        self.check_clean(&mut connection)?;
        connection.tally().requests.increment();
        connection.unanswered.begin();
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
}
