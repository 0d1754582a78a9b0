//! The response on a stream of a shared connection.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use http::response::Parts;

use super::Timeouts;
use super::body::Body;
use super::lease::{Lease, Sent};
use super::link::Link;
use super::meter::Unanswered;
use super::reading::{Source, present};
use super::state::{Phase, Response, Shared, Summary};
use super::transact::Exchange;
use super::upload::Upload;
use crate::error::{Cause, Error, Result, Stage};
use crate::http1::{Framing, Limits};
use crate::http2::{self, Fault, InFlight};
use crate::mailbox::Completion;

/// The head of a response, and where the rest of it comes from.
pub struct Answer {
    head: Parts,
    stream: RecvStream,
    sent: Sent,
    /// What the server has answered before it had it.
    unsent: Option<Upload>,
}

impl Answer {
    /// What `response` answers, with what is left of it to send.
    pub fn new(response: http::Response<RecvStream>, sent: Sent, unsent: Option<Upload>) -> Self {
        let (head, stream) = response.into_parts();
        Self {
            head,
            stream,
            sent,
            unsent,
        }
    }
}

/// Hands a response to the consumer, and reads its body ahead.
pub async fn respond(
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
            drop((lease, answer));
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
    let mut body = Body::new(framing, exchange.limits, exchange.max_body_size);
    body.set_windowed();
    // One that has an error to tell does not want the rest.
    let (mut uploading, mut unwanted) = (answer.unsent, None);
    if head.status >= 400 {
        std::mem::swap(&mut uploading, &mut unwanted);
    }
    if !has_body && let Some(uploading) = uploading.take() {
        let _ = uploading.await;
    }
    let summary = Summary {
        head,
        has_body,
        has_trailers: has_body,
        keeps_alive: true,
        timing,
    };
    let source = Streaming {
        lease,
        stream: answer.stream,
        end: None,
        held: 0,
        last_part: Instant::now(),
        limits: exchange.limits,
        timeouts: exchange.timeouts,
        uploading,
        _unwanted: unwanted,
        _unsent: answer.sent.body,
        _in_flight: answer.sent.in_flight,
        _unanswered: answer.sent.unanswered,
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

/// The body of a response.
struct Streaming {
    lease: Box<Lease>,
    stream: RecvStream,
    /// How the body ended, while its request has not.
    end: Option<std::result::Result<Option<HeaderMap>, h2::Error>>,
    /// Bytes that have come and that the server has not been allowed to replace by others.
    held: usize,
    last_part: Instant,
    limits: Limits,
    timeouts: Timeouts,
    /// What is left to send of the request: the server may want it before it goes on.
    uploading: Option<Upload>,
    /// What the server did not want of the request. Its stream is reset when this is dropped, and not
    /// before the response has been read.
    _unwanted: Option<Upload>,
    /// The same of a body that came in pieces.
    _unsent: Option<SendStream<Bytes>>,
    _in_flight: InFlight,
    _unanswered: Unanswered,
}

/// What comes at a time.
enum Part {
    Data(Bytes),
    End(Option<HeaderMap>),
    Broken(h2::Error),
    /// The rest of the request has been sent, or is not wanted.
    Sent,
    /// The server takes none of the request.
    Stalled(Error),
}

/// Of what has been taken from the body, so much is told to the server at once.
const STEP: usize = 64 * 1024;

impl Source for Streaming {
    type Part = Part;

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Part> {
        if let Some(uploading) = &mut self.uploading
            && let Poll::Ready(uploaded) = uploading.as_mut().poll(cx)
        {
            self.uploading = None;
            return Poll::Ready(match uploaded {
                Err(error) if *error.cause() == Cause::Timeout => Part::Stalled(error),
                // The server may have stopped reading (RFC 9113, 8.1).
                _ => Part::Sent,
            });
        }
        if self.end.is_none() {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => return Poll::Ready(Part::Data(data)),
                Some(Err(error)) => self.end = Some(Err(error)),
                None => self.end = Some(ready!(self.stream.poll_trailers(cx))),
            }
        }
        match self.end.take() {
            Some(Err(error)) => Poll::Ready(Part::Broken(error)),
            Some(Ok(trailers)) if self.uploading.is_none() => Poll::Ready(Part::End(trailers)),
            end => {
                self.end = end;
                Poll::Pending
            }
        }
    }

    fn take_in(&mut self, body: &mut Body, part: Part) -> Result<bool> {
        self.last_part = Instant::now();
        match part {
            Part::Data(data) => {
                body.push(&data)?;
                self.held += data.len();
                self.make_room(body);
                Ok(false)
            }
            Part::End(trailers) => {
                let fields = trailers.unwrap_or_default();
                let trailers = http2::headers(&fields, &self.limits)
                    .map_err(|malformed| Error::malformed(Stage::Body, &malformed))?;
                body.set_trailers(trailers);
                Ok(true)
            }
            Part::Sent => Ok(false),
            Part::Broken(error) => Err(self.lease.explain(&Fault::from(&error), Stage::Body)),
            Part::Stalled(error) => {
                self.lease.suspect_stalled(self.timeouts.send);
                Err(error)
            }
        }
    }

    /// What has come is taken out of h2 at once, which needs far more memory for small frames. The
    /// window (RFC 9113, 5.2) bounds it.
    fn is_bounded(&self) -> bool {
        true
    }

    fn is_sending(&self) -> bool {
        self.uploading.is_some()
    }

    fn make_room(&mut self, body: &Body) {
        let free = self.held.saturating_sub(body.ahead());
        if free >= STEP || free == self.held {
            // An error shows with the next part.
            let _ = self.stream.flow_control().release_capacity(free);
            self.held -= free;
        }
    }

    fn time_out(&mut self) -> Error {
        self.lease.suspect(self.last_part);
        Error::timeout(Stage::Body)
    }

    fn into_link(self) -> Link {
        Link::Shared(self.lease)
    }
}
