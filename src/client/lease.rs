//! A client's place on a shared connection, and its streams there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use tokio::sync::OwnedSemaphorePermit;

use super::Destination;
use super::connect::Route;
use super::meter::Unanswered;
use super::sharing::Line;
use super::trace::{Timing, Trace};
use crate::error::{Cause, Error, Stage};
use crate::http1::Malformed;
use crate::http2::{Coming, Fault, Head, Health, InFlight};
use crate::stats::Tally;
use crate::tls::Session;

/// See the module. Dropping it resets the streams and gives the place back.
#[derive(Debug)]
pub struct Lease {
    line: Arc<Line>,
    /// How many had a place on the connection before.
    pub reused: u32,
    /// Its place among those that are bounded, where they are.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Requests that were sent and whose responses have not been read, in that order.
    pub due: VecDeque<Sent>,
    /// Whether it has carried a request before the current one.
    is_used: bool,
}

/// A request on its way.
#[derive(Debug)]
pub struct Sent {
    /// The head of its response.
    pub response: Coming,
    /// Its body, while not all of that is sent.
    pub body: Option<SendStream<Bytes>>,
    /// What is left to send of a body whose length its head has announced.
    pub left: Option<u64>,
    /// Keeps the server under watch.
    pub in_flight: InFlight,
    /// Counts it.
    pub unanswered: Unanswered,
    /// When it was sent.
    pub began: Instant,
}

impl Sent {
    /// The same, for who does not wait for the response at once.
    #[must_use]
    pub fn watched(self) -> Self {
        Self {
            response: self.response.watched(),
            ..self
        }
    }
}

impl Lease {
    /// A place that has been taken on `line`, as the `reused`th after the first.
    pub fn new(line: Arc<Line>, reused: u32) -> Self {
        Self {
            line,
            reused,
            permit: None,
            due: VecDeque::new(),
            is_used: false,
        }
    }

    /// Where it leads.
    pub fn destination(&self) -> &Arc<Destination> {
        &self.route().destination
    }

    /// How it got there.
    pub fn route(&self) -> &Route {
        &self.line.origin.route
    }

    /// Where what happens on it is counted.
    pub fn tally(&self) -> &'static Tally {
        self.line.origin.tally
    }

    /// How the connection came to be.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.line.origin.trace
    }

    /// Whether another request can be sent.
    pub fn is_open(&self) -> bool {
        self.line.http2.is_open() && !self.is_lost()
    }

    /// Whether the runtime's thread that has opened the connection has ended.
    pub fn is_lost(&self) -> bool {
        self.line.origin.is_lost()
    }

    /// Whether the connection was given up since the server did not answer a ping.
    pub fn is_silent(&self) -> bool {
        self.line.http2.is_silent()
    }

    /// For how long the connection may be idle from now on.
    pub fn set_idle_time(&self, time: Option<Duration>) {
        self.line.http2.set_idle_time(time);
    }

    /// Notes that a stream has waited in vain since then: others may do so as well.
    pub fn suspect(&self, since: Instant) {
        self.line.http2.suspect(since);
    }

    /// Notes that the server has not taken any of a body for so long.
    pub fn suspect_stalled(&self, time: Duration) {
        if let Some(since) = Instant::now().checked_sub(time) {
            self.suspect(since);
        }
    }

    /// Lets no new streams onto the connection.
    pub fn retire(&self) {
        self.line.http2.retire();
    }

    /// Sends the head of a request.
    ///
    /// # Errors
    ///
    /// The connection takes no new streams.
    pub async fn send_head(&self, head: &Head, is_whole: bool) -> std::result::Result<Sent, Fault> {
        let began = Instant::now();
        let stream = self.line.http2.open(head.request.clone(), is_whole).await?;
        Ok(Sent {
            response: stream.response,
            body: (!is_whole).then_some(stream.body),
            left: head.announced,
            in_flight: stream.in_flight,
            unanswered: Unanswered::one(self.tally()),
            began,
        })
    }

    /// Ends a request body that came in pieces: how many bytes of it are missing.
    pub fn end_body(&mut self) -> u64 {
        let Some(sent) = self.due.back_mut() else {
            return 0;
        };
        let left = sent.left.take().unwrap_or(0);
        if left == 0
            && let Some(mut body) = sent.body.take()
        {
            // A server that has ended the stream says so in its response.
            let _ = body.send_data(Bytes::new(), true);
        }
        left
    }

    /// Tells when what came of the request that began at `began`, now that its head is there.
    pub fn end_head(&mut self, began: Instant) -> Timing {
        let head = Instant::now();
        let opening = (!self.is_used && self.reused == 0).then(|| self.trace().clone());
        self.is_used = true;
        Timing {
            opening,
            began,
            first_byte: head,
            head,
        }
    }

    /// The error for a fault of one of its streams.
    pub fn explain(&self, fault: &Fault, stage: Stage) -> Error {
        if self.is_silent() {
            return Error::closed(stage).with_hint(
                "the server sent nothing for a while and did not answer an HTTP/2 ping: it, or the \
                 way to it, is gone",
            );
        }
        let session = self.trace().session.as_deref();
        explain(fault, self.line.http2.health(), session, stage)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.due.clear();
        self.line.http2.give_place_back();
    }
}

fn explain(fault: &Fault, health: &Health, session: Option<&Session>, stage: Stage) -> Error {
    let told = health.error(|error| session.and_then(|session| session.explain(error, stage)));
    if let Some(Some(explained)) = told {
        return explained;
    }
    match fault {
        Fault::Unprocessed(reason) if reason == "REFUSED_STREAM" => {
            let reason = reason.clone();
            Error::new(stage, Cause::Http2Reset { reason })
        }
        Fault::Unprocessed(reason) if reason == "NO_ERROR" => {
            Error::closed(stage).with_hint("the server is about to end: send the request again")
        }
        Fault::Unprocessed(reason) => Error::new(
            stage,
            Cause::Http2GoneAway {
                reason: reason.clone(),
            },
        ),
        Fault::Reset(reason) => {
            let reason = reason.clone();
            let demands_http1 = reason == "HTTP_1_1_REQUIRED";
            let error = Error::new(stage, Cause::Http2Reset { reason });
            match demands_http1 {
                // RFC 9113, 7. Apache httpd says so where it asks for a certificate for a part of its
                // paths only.
                true => {
                    error.with_hint("the server demands HTTP/1.1 here: set http_version to 1.1")
                }
                false => error,
            }
        }
        Fault::Malformed(reason) => Error::new(
            stage,
            Cause::HttpMalformed {
                reason: format!("it breaks HTTP/2 ({reason})"),
            },
        ),
        Fault::NoFinalResponse => Error::malformed(stage, &Malformed::NoFinalResponse),
        Fault::Lost => match session {
            Some(session) => session.explain_closed(stage),
            None => Error::closed(stage),
        },
    }
}

/// The error for a connection that did not begin.
pub fn explain_start(fault: &Fault, health: &Health, session: Option<&Session>) -> Error {
    // The answer of an HTTP/1.1 server is no frame.
    if matches!(fault, Fault::Malformed(_)) && session.is_none() {
        let chosen = "what it answers is no HTTP/2".to_owned();
        return Error::new(Stage::Connect, Cause::Http2Unsupported { chosen });
    }
    // TLS 1.3 servers judge the client certificate behind the handshake (RFC 8446, 4.4.2.4).
    let stage = match session {
        Some(_) => Stage::Tls,
        None => Stage::Connect,
    };
    explain(fault, health, session, stage)
}
