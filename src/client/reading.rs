//! Reading a response's body ahead of its consumer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::body::Body;
use super::link::Link;
use super::state::{Phase, Response, Shared, Summary};
use super::transact::Exchange;
use super::{Connection, Timeouts};
use crate::error::{Error, Result, Stage};
use crate::http1::{Framing, ResponseHead};
use crate::mailbox::Completion;

/// Where a body comes from.
pub trait Source: Sized {
    /// What comes at a time.
    type Part;

    /// The next part. Safe to cancel.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Self::Part>;

    /// Gives a part to the body. True when that is complete.
    ///
    /// # Errors
    ///
    /// The body is broken or too large.
    fn take_in(&mut self, body: &mut Body, part: Self::Part) -> Result<bool>;

    /// Whether the other side sends no more than it has been allowed to: then it is read although the
    /// consumer is slow.
    fn is_bounded(&self) -> bool {
        false
    }

    /// Whether the request is still being sent: the response may wait for that, which has a time-out
    /// of its own.
    fn is_sending(&self) -> bool {
        false
    }

    /// Allows the other side to send as much as there is room for.
    fn make_room(&mut self, _body: &Body) {}

    /// The error for a part that does not come in time.
    fn time_out(&mut self) -> Error {
        Error::timeout(Stage::Body)
    }

    /// What is there for the next request.
    fn into_link(self) -> Link;
}

impl Source for Box<Connection> {
    type Part = std::io::Result<usize>;

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Self::Part> {
        self.poll_fill(cx)
    }

    fn take_in(&mut self, body: &mut Body, part: Self::Part) -> Result<bool> {
        match part {
            Ok(1..) => body.decode(&mut self.buffer),
            Ok(0) if body.may_end_here() => Ok(true),
            Ok(0) => Err(self.explain_end(Stage::Body)),
            Err(error) => Err(self.explain(&error, Stage::Body)),
        }
    }

    fn into_link(mut self) -> Link {
        self.unanswered.end();
        Link::Own(self)
    }
}

/// Hands a response on a connection of its own to the consumer, and reads its body ahead.
pub async fn respond(
    shared: Arc<Shared>,
    mut connection: Box<Connection>,
    exchange: Exchange,
    head: ResponseHead,
    framing: Framing,
    completion: Completion,
) {
    connection.responses_due = connection.responses_due.saturating_sub(1);
    let timing = connection.end_head();
    if connection.responses_due > 0 {
        // The next one's time runs from here: its request was sent with this one's.
        connection.begin_request();
    }
    let summary = Summary {
        head,
        has_body: framing != Framing::None,
        has_trailers: framing == Framing::Chunked,
        keeps_alive: connection.keeps_alive,
        timing,
    };
    let body = Body::new(framing, exchange.limits, exchange.max_body_size);
    let mut response = Response::new(summary, body);
    let progress = response.body.decode(&mut connection.buffer);
    let timeouts = exchange.timeouts;
    drop(exchange);
    present(
        &shared, connection, response, progress, timeouts, completion,
    )
    .await;
}

/// Hands a response to the consumer. How far its body has come is in `progress`.
pub async fn present<S: Source>(
    shared: &Arc<Shared>,
    mut source: S,
    mut response: Box<Response>,
    mut progress: Result<bool>,
    timeouts: Timeouts,
    completion: Completion,
) {
    // Mostly the body of a small response has come with its head. Whatever is there now is taken
    // before the consumer is woken, which spares it a second wait.
    while let Ok(false) = progress
        && response.body.has_room()
        && let Poll::Ready(part) = poll_fn(|cx| Poll::Ready(source.poll_part(cx))).await
    {
        progress = source.take_in(&mut response.body, part);
    }
    let finished = finish(&mut response.body, progress);
    let unfinished = shared.present(response, source, finished);
    drop(completion);
    if let Some(source) = unfinished {
        let reading = Reading(Some(shared));
        read_ahead(shared, source, timeouts).await;
        reading.has_ended();
    }
}

/// Ends a body whose task is dropped before its end, by a panic or with its thread: somebody may wait
/// for it.
struct Reading<'a>(Option<&'a Arc<Shared>>);

impl Reading<'_> {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let Some(shared) = self.0 else {
            return;
        };
        let mut state = shared.lock();
        // There is none if the client has been closed, which is why the task is dropped then.
        let Some(response) = &mut state.response else {
            return;
        };
        response.body.finish(Err(Error::ended(Stage::Body)));
        let woken = response.satisfied();
        state.phase = Phase::Closed;
        state.task = None;
        drop(state);
        drop(woken);
    }
}

/// Reads the body until it is finished, as far ahead of the consumer as it may.
async fn read_ahead<S: Source>(shared: &Arc<Shared>, mut source: S, timeouts: Timeouts) {
    loop {
        let (reads, waits) = {
            let state = shared.lock();
            let Some(response) = &state.response else {
                return;
            };
            source.make_room(&response.body);
            let reads = response.body.has_room() || source.is_bounded();
            (reads, response.waiter.is_some())
        };
        // Asked here, since data that keeps coming would always be ready before the timer below.
        if waits && timeouts.are_over() {
            advance(shared, source, None);
            return;
        }
        if !reads {
            shared.changed.notified().await;
            continue;
        }
        let is_sending = source.is_sending();
        // A server that sends what is no data, and that without end (tickets of TLS), uses up all that
        // tokio allows a task at a time, and what is polled behind it never comes to its turn. So the
        // consumer comes first, and the time is that of `timeout`, which is looked at all the same.
        let part = tokio::select! {
            biased;
            () = shared.changed.notified() => continue,
            part = next_part(&mut source, timeouts, waits && !is_sending) => part,
        };
        match advance(shared, source, part) {
            Some(unfinished) => source = unfinished,
            None => return,
        }
    }
}

/// `None` is a part that did not come in time. Nobody is kept waiting by a body that nobody asks for.
async fn next_part<S: Source>(source: &mut S, timeouts: Timeouts, waits: bool) -> Option<S::Part> {
    let part = poll_fn(|cx| source.poll_part(cx));
    match waits {
        true => tokio::time::timeout(timeouts.read(), part).await.ok(),
        false => Some(part.await),
    }
}

/// Gives the consumer what has come, `None` being a part that took too long. The source comes back
/// while the body is not finished.
fn advance<S: Source>(shared: &Arc<Shared>, mut source: S, part: Option<S::Part>) -> Option<S> {
    let mut state = shared.lock();
    let response = state.response.as_mut()?;
    let progress = match part {
        Some(part) => source.take_in(&mut response.body, part),
        None => Err(source.time_out()),
    };
    let finished = finish(&mut response.body, progress);
    let woken = response.satisfied();
    let unfinished = state.settle(source, finished);
    drop(state);
    drop(woken);
    unfinished
}

fn finish(body: &mut Body, progress: Result<bool>) -> bool {
    match progress {
        Ok(false) => false,
        Ok(true) => {
            body.finish(Ok(()));
            true
        }
        Err(error) => {
            body.finish(Err(error));
            true
        }
    }
}
