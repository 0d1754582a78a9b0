//! Requests as streams of a shared connection, up to the heads of their responses.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;

use super::answer::{Answer, respond};
use super::connect::within;
use super::lease::{Lease, Sent};
use super::link::Link;
use super::sharing::obtain;
use super::state::{Attempt, Phase, Shared};
use super::trace::Trace;
use super::transact::{Exchange, Message};
use super::upload::{self, Upload, upload};
use crate::error::{Cause, Error, Result, Stage};
use crate::http2::{Fault, Head};
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

/// The head of a response, or why there is none.
type Arrived = std::result::Result<http::Response<RecvStream>, Fault>;

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
        lease.tally().retries.increment();
        result = match elsewhere(engine, &mut lease, &exchange).await {
            Ok(()) => {
                shared.lock().attempt = Attempt::again(lease.reused);
                shared.lock().trace = Some(lease.trace().clone());
                ask(&lease, request, &exchange).await
            }
            Err(error) => Err(Failed {
                error,
                is_harmless: false,
            }),
        };
    }
    match result {
        Ok(answer) => respond(&shared, lease, &exchange, answer, completion).await,
        Err(failed) => {
            // Whoever is told of the failure finds nothing of it in flight.
            drop(lease);
            shared.conclude(Phase::Closed, Err(failed.error), completion);
        }
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
    // In a box: every request would be ten times as large for what few of them do.
    let obtaining = Box::pin(obtain(engine, route, exchange.timeouts, &mut trace));
    match obtaining.await? {
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
    let lost = |error| Failed {
        error,
        is_harmless: false,
    };
    let body = sent.body.take();
    let mut unsent = body.map(|body| upload::whole(body, request.body.clone(), exchange.timeouts));
    let early = match &mut unsent {
        None => None,
        // RFC 9113, 8.1: it may answer before it has all of the request.
        Some(sending) => send_until_answered(lease, sending, &mut sent, exchange)
            .await
            .map_err(lost)?,
    };
    let head = match early {
        Some(head) => head,
        None => {
            unsent = None;
            let waited = wait_for_head(lease, &mut sent, exchange).await;
            waited.map_err(lost)?
        }
    };
    let head = head.map_err(|fault| failed(fault, Stage::Response))?;
    Ok(Answer::new(head, sent, unsent))
}

/// Sends a body to its end, or until there is a response. The server may also have stopped reading:
/// then it says why.
async fn send_until_answered(
    lease: &Lease,
    sending: &mut Upload,
    sent: &mut Sent,
    exchange: &Exchange,
) -> Result<Option<Arrived>> {
    tokio::select! {
        biased;
        head = &mut sent.response => Ok(Some(head)),
        uploaded = sending => match uploaded {
            Err(error) if *error.cause() == Cause::Timeout => {
                lease.suspect_stalled(exchange.timeouts.send);
                Err(error)
            }
            _ => Ok(None),
        },
    }
}

async fn wait_for_head(lease: &Lease, sent: &mut Sent, exchange: &Exchange) -> Result<Arrived> {
    let since = Instant::now();
    let waiting = async { Ok((&mut sent.response).await) };
    let waited = within(exchange.timeouts.read(), Stage::Response, waiting).await;
    if waited.is_err() {
        lease.suspect(since);
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
        Ok(sent) => lease.due.push_back(sent.watched()),
        Err(fault) => {
            let error = lease.explain(&fault, Stage::Send);
            drop(lease);
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
            lease.suspect_stalled(timeouts.send);
            drop(lease);
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
    let waited = wait_for_head(&lease, &mut sent, &exchange).await;
    let head = waited.and_then(|head| head.map_err(|fault| lease.explain(&fault, Stage::Response)));
    match head {
        Ok(head) => {
            let answer = Answer::new(head, sent, None);
            respond(&shared, lease, &exchange, answer, completion).await;
        }
        Err(error) => {
            drop((lease, sent));
            shared.conclude(Phase::Closed, Err(error), completion);
        }
    }
}
