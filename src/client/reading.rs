//! Reading a response's body ahead of its consumer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::body::Body;
use super::state::{Response, Shared, Summary};
use super::transact::Exchange;
use super::{Connection, Timeouts};
use crate::error::{Error, Result, Stage};
use crate::http1::{Framing, ResponseHead};
use crate::mailbox::Completion;

/// Hands a response to the consumer, and reads its body ahead.
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
    let mut body = Body::new(framing, exchange.limits, exchange.max_body_size);
    let mut progress = body.decode(&mut connection.buffer);
    if let Ok(false) = progress {
        // Mostly the body of a small response has come with its head. Whatever is there now is
        // decoded before the consumer is woken, which spares it a second wait.
        let ready = poll_fn(|cx| Poll::Ready(connection.poll_fill(cx)));
        if let Poll::Ready(read) = ready.await {
            progress = take_in(&mut body, &mut connection, read);
        }
    }
    let finished = finish(&mut body, progress);
    let response = Response {
        summary: Some(Summary {
            head,
            framing,
            keeps_alive: connection.keeps_alive,
            timing: timing.clone(),
        }),
        body,
        waiter: None,
        timing,
    };
    let timeouts = exchange.timeouts;
    drop(exchange);
    let unfinished = shared.present(response, connection, finished);
    drop(completion);
    if let Some(connection) = unfinished {
        read_ahead(&shared, connection, timeouts).await;
    }
}

/// Reads the body until it is finished, as far ahead of the consumer as it may.
async fn read_ahead(shared: &Arc<Shared>, mut connection: Box<Connection>, timeouts: Timeouts) {
    loop {
        let (has_room, waits) = {
            let state = shared.lock();
            let Some(response) = &state.response else {
                return;
            };
            (response.body.has_room(), response.waiter.is_some())
        };
        // Asked here, since data that keeps coming would always be ready before the timer below.
        if waits && timeouts.are_over() {
            advance(shared, connection, None);
            return;
        }
        if !has_room {
            shared.changed.notified().await;
            continue;
        }
        let read = tokio::select! {
            biased;
            read = connection.fill() => Some(read),
            () = shared.changed.notified() => continue,
            // Nobody is kept waiting by a body that nobody asks for.
            () = tokio::time::sleep(timeouts.read()), if waits => None,
        };
        match advance(shared, connection, read) {
            Some(unfinished) => connection = unfinished,
            None => return,
        }
    }
}

/// Gives the consumer what a read brought, `None` being a read that took too long. The connection
/// comes back while the body is not finished.
fn advance(
    shared: &Arc<Shared>,
    mut connection: Box<Connection>,
    read: Option<std::io::Result<usize>>,
) -> Option<Box<Connection>> {
    let mut state = shared.lock();
    let response = state.response.as_mut()?;
    let progress = match read {
        Some(read) => take_in(&mut response.body, &mut connection, read),
        None => Err(Error::timeout(Stage::Body)),
    };
    let finished = finish(&mut response.body, progress);
    let woken = response.satisfied();
    let unfinished = state.settle(connection, finished);
    drop(state);
    drop(woken);
    unfinished
}

/// Decodes what a read brought. True when the body is complete.
fn take_in(
    body: &mut Body,
    connection: &mut Connection,
    read: std::io::Result<usize>,
) -> Result<bool> {
    match read {
        Ok(1..) => body.decode(&mut connection.buffer),
        Ok(0) if body.may_end_here() => Ok(true),
        Ok(0) => Err(connection.explain_end(Stage::Body)),
        Err(error) => Err(connection.explain(&error, Stage::Body)),
    }
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
