//! Requests and responses as streams of a shared connection.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use http::response::Parts;

use super::body::Body;
use super::connect::within;
use super::lease::{Lease, Sent, upload};
use super::link::Link;
use super::reading::{Source, present};
use super::sharing::obtain;
use super::state::{Phase, Response, Shared, Summary};
use super::trace::Trace;
use super::transact::{Exchange, Message};
use crate::error::{Cause, Error, Result, Stage};
use crate::http1::{Framing, Limits};
use crate::http2::{self, Fault, Head, InFlight};
use crate::mailbox::Completion;
use crate::runtime::Engine;

/// A request over HTTP/2.
#[derive(Debug)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// Its body, empty if it comes in pieces.
    pub body: Bytes,
    /// Whether its body comes in pieces.
    pub in_pieces: bool,
}

impl Request {
    fn is_whole(&self) -> bool {
        self.body.is_empty() && !self.in_pieces
    }
}

/// The head of a response, and where the rest of it comes from.
struct Answer {
    head: Parts,
    stream: RecvStream,
    sent: Sent,
}

/// An error, and whether the request may be sent again.
struct Failed {
    error: Error,
    is_harmless: bool,
}

/// Sends a request and hands its response to the consumer.
pub async fn request(
    engine: &'static Engine,
    shared: Arc<Shared>,
    mut lease: Box<Lease>,
    exchange: Exchange,
    completion: Completion,
) {
    let Message::Frames(request) = &exchange.message else {
        let error = Error::internal("a request in bytes on a shared connection");
        return shared.conclude(Phase::Closed, Err(error), completion);
    };
    let mut result = ask(&lease, request, &exchange).await;
    if matches!(&result, Err(failed) if failed.is_harmless) {
        engine.stats.retries.increment();
        result = match elsewhere(engine, &mut lease, &exchange).await {
            Ok(()) => ask(&lease, request, &exchange).await,
            Err(error) => Err(Failed {
                error,
                is_harmless: false,
            }),
        };
    }
    match result {
        Ok(answer) => respond(&shared, lease, &exchange, answer, completion).await,
        Err(failed) => shared.conclude(Phase::Closed, Err(failed.error), completion),
    }
}

/// Takes a place on another connection. The one that did not take the request is left to those whose
/// requests it has taken.
async fn elsewhere(
    engine: &'static Engine,
    lease: &mut Box<Lease>,
    exchange: &Exchange,
) -> Result<()> {
    lease.retire();
    let route = lease.route().clone();
    let mut trace = Trace::default();
    match obtain(engine, route, exchange.timeouts, &mut trace).await? {
        Link::Shared(mut fresh) => {
            fresh.permit = lease.permit.take();
            *lease = fresh;
            Ok(())
        }
        // The server has been configured anew in between.
        Link::Own(connection) => {
            connection.close();
            Err(Error::closed(Stage::Send))
        }
    }
}

async fn ask(
    lease: &Lease,
    request: &Request,
    exchange: &Exchange,
) -> std::result::Result<Answer, Failed> {
    let failed = |fault: Fault, stage| Failed {
        error: lease.explain(&fault, stage),
        is_harmless: match fault {
            Fault::Unprocessed(_) => true,
            // A connection that the server closed as the request was on its way looks like this.
            Fault::Lost => exchange.retry_stale && lease.reused > 0 && !lease.is_silent(),
            _ => false,
        },
    };
    let opened = lease.send_head(&request.head, request.is_whole()).await;
    let mut sent = opened.map_err(|fault| failed(fault, Stage::Send))?;
    let early = match &mut sent.body {
        None => None,
        Some(body) => {
            let sending = upload(body, request.body.clone(), true, exchange.timeouts);
            let mut sending = pin!(sending);
            let early = tokio::select! {
                biased;
                early = &mut sent.response => Some(early),
                uploaded = &mut sending => match uploaded {
                    Err(error) if *error.cause() == Cause::Timeout => {
                        lease.suspect();
                        return Err(Failed { error, is_harmless: false });
                    }
                    // The server has stopped reading: it says why.
                    _ => None,
                },
            };
            // RFC 9113, 8.1: it may answer before it has all of the request.
            if matches!(&early, Some(Ok(response)) if response.status().as_u16() < 400) {
                let _ = sending.await;
            }
            early
        }
    };
    let response = match early {
        Some(response) => response,
        None => wait_for_head(lease, &mut sent, exchange)
            .await
            .map_err(|error| Failed {
                error,
                is_harmless: false,
            })?,
    };
    match response {
        Ok(response) => Ok(Answer::new(response, sent)),
        Err(error) => Err(failed(Fault::from(&error), Stage::Response)),
    }
}

async fn wait_for_head(
    lease: &Lease,
    sent: &mut Sent,
    exchange: &Exchange,
) -> Result<std::result::Result<http::Response<RecvStream>, h2::Error>> {
    let waiting = async { Ok((&mut sent.response).await) };
    let waited = within(exchange.timeouts.read(), Stage::Response, waiting).await;
    if waited.is_err() {
        lease.suspect();
    }
    waited
}

/// Sends a request and reads nothing, or sends its head if its body comes in pieces.
pub async fn send_request(
    shared: Arc<Shared>,
    mut lease: Box<Lease>,
    exchange: Exchange,
    completion: Completion,
) {
    let Message::Frames(request) = exchange.message else {
        let error = Error::internal("a request in bytes on a shared connection");
        return shared.conclude(Phase::Closed, Err(error), completion);
    };
    let is_whole = request.is_whole();
    match lease.send_head(&request.head, is_whole).await {
        Ok(sent) => lease.due.push_back(sent),
        Err(fault) => {
            let error = lease.explain(&fault, Stage::Send);
            return shared.conclude(Phase::Closed, Err(error), completion);
        }
    }
    if is_whole || request.in_pieces {
        return shared.conclude(Phase::Idle(Link::Shared(lease)), Ok(()), completion);
    }
    send(
        shared,
        lease,
        request.body,
        true,
        exchange.timeouts,
        completion,
    )
    .await;
}

/// Sends a part of a body.
pub async fn send(
    shared: Arc<Shared>,
    mut lease: Box<Lease>,
    bytes: Bytes,
    is_last: bool,
    timeouts: super::Timeouts,
    completion: Completion,
) {
    let body = lease.due.back_mut().and_then(|sent| sent.body.as_mut());
    let outcome = match body {
        Some(body) => upload(body, bytes, is_last, timeouts).await,
        None => Err(Error::closed(Stage::Send)),
    };
    let phase = match &outcome {
        Err(error) if *error.cause() == Cause::Timeout => {
            lease.suspect();
            Phase::Closed
        }
        // What the server has said instead of reading on is for `receive` to read.
        _ => Phase::Idle(Link::Shared(lease)),
    };
    shared.conclude(phase, outcome, completion);
}

/// Reads the response to the request that was sent first.
pub async fn receive(
    shared: Arc<Shared>,
    mut lease: Box<Lease>,
    exchange: Exchange,
    completion: Completion,
) {
    let Some(mut sent) = lease.due.pop_front() else {
        let error = Error::bad_argument("no request has been sent that could be answered");
        return shared.conclude(Phase::Idle(Link::Shared(lease)), Err(error), completion);
    };
    let response = match wait_for_head(&lease, &mut sent, &exchange).await {
        Ok(response) => {
            response.map_err(|error| lease.explain(&Fault::from(&error), Stage::Response))
        }
        Err(error) => Err(error),
    };
    match response {
        Ok(response) => {
            let answer = Answer::new(response, sent);
            respond(&shared, lease, &exchange, answer, completion).await;
        }
        Err(error) => shared.conclude(Phase::Closed, Err(error), completion),
    }
}

async fn respond(
    shared: &Arc<Shared>,
    mut lease: Box<Lease>,
    exchange: &Exchange,
    answer: Answer,
    completion: Completion,
) {
    let timing = lease.end_head(answer.sent.began);
    let head = match http2::response(&answer.head, &exchange.limits) {
        Ok(head) => head,
        Err(malformed) => {
            let error = Error::malformed(Stage::Response, &malformed);
            return shared.conclude(Phase::Closed, Err(error), completion);
        }
    };
    // RFC 9110, 6.4.1
    let has_body = exchange.method != "HEAD" && !matches!(head.status, 204 | 304);
    let framing = match has_body {
        // Its frames are to the consumer what chunks are.
        true => Framing::Chunked,
        false => Framing::None,
    };
    let body = Body::new(framing, exchange.limits, exchange.max_body_size);
    let summary = Summary {
        head,
        has_body,
        has_trailers: has_body,
        keeps_alive: lease.keeps_alive,
        timing,
    };
    let source = Streaming {
        lease,
        stream: answer.stream,
        limits: exchange.limits,
        _unsent: answer.sent.body,
        _in_flight: answer.sent.in_flight,
    };
    present(
        shared,
        source,
        Response::new(summary, body),
        Ok(!has_body),
        exchange.timeouts,
        completion,
    )
    .await;
}

impl Answer {
    fn new(response: http::Response<RecvStream>, sent: Sent) -> Self {
        let (head, stream) = response.into_parts();
        Self { head, stream, sent }
    }
}

/// The body of a response.
struct Streaming {
    lease: Box<Lease>,
    stream: RecvStream,
    limits: Limits,
    /// What the server did not want. Its stream is reset when this is dropped, and not before the
    /// response has been read.
    _unsent: Option<SendStream<Bytes>>,
    _in_flight: InFlight,
}

/// What comes at a time.
enum Part {
    Data(Bytes),
    End(Option<HeaderMap>),
    Broken(h2::Error),
}

impl Source for Streaming {
    type Part = Part;

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        Poll::Ready(match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => Part::Data(data),
            Some(Err(error)) => Part::Broken(error),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(trailers) => Part::End(trailers),
                Err(error) => Part::Broken(error),
            },
        })
    }

    fn take_in(&mut self, body: &mut Body, part: Part) -> Result<bool> {
        match part {
            Part::Data(data) => {
                body.push(&data)?;
                // The body is read on when its consumer has taken of it, and the server may send as
                // much again then (RFC 9113, 5.2). An error shows with the next part.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Ok(false)
            }
            Part::End(trailers) => {
                let fields = trailers.unwrap_or_default();
                let trailers = http2::headers(&fields, &self.limits)
                    .map_err(|malformed| Error::malformed(Stage::Body, &malformed))?;
                body.set_trailers(trailers);
                Ok(true)
            }
            Part::Broken(error) => Err(self.lease.explain(&Fault::from(&error), Stage::Body)),
        }
    }

    fn time_out(&mut self) -> Error {
        self.lease.suspect();
        Error::timeout(Stage::Body)
    }

    fn into_link(self) -> Link {
        Link::Shared(self.lease)
    }
}
