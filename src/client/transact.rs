//! Writing a request and reading the head of its response.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::within;
use super::streams::Request;
use super::{Connection, Timeouts};
use crate::error::{Cause, Error, Result, Stage};
use crate::http1::{self, Framing, Limits, ResponseHead};

/// A request as it is sent.
#[derive(Debug)]
pub enum Message {
    /// Head and body.
    Bytes(Vec<u8>),
    /// What HTTP/2 makes frames of.
    Frames(Box<Request>),
}

/// A request, and how to read its response.
#[derive(Debug)]
pub struct Exchange {
    /// The request.
    pub message: Message,
    /// Where in its bytes the body starts if it waits for a 100 (Continue). At their end for a body
    /// that comes piece by piece.
    pub continue_at: Option<usize>,
    /// The length that the head announces for a body that comes in pieces.
    pub announced: Option<u64>,
    /// Method in capitals: it decides whether the response has a body.
    pub method: String,
    /// Bounds on the response head.
    pub limits: Limits,
    /// Bound on the response body in bytes.
    pub max_body_size: Option<u64>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Whether to send it again if its pooled connection turns out to be dead.
    pub retry_stale: bool,
}

/// Bytes of a response that are read while the request is still being written.
const EARLY_LIMIT: usize = 1024 * 1024;

/// RFC 9110, 10.1.1: a client does not wait for a 100 (Continue) for ever. curl waits as long.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// An error, and whether the server may have seen the request.
#[derive(Debug)]
pub struct Failed {
    /// What went wrong.
    pub error: Error,
    /// No byte of a response came before the connection ended: a pooled connection that the
    /// server has closed looks like this.
    pub unanswered: bool,
}

impl Exchange {
    /// The bytes of a request over HTTP/1.
    pub fn bytes(&self) -> &[u8] {
        match &self.message {
            Message::Bytes(bytes) => bytes,
            Message::Frames(_) => &[],
        }
    }

    /// Writes the request, of which `sent` bytes are written already, and reads the response head.
    pub async fn run(
        &self,
        connection: &mut Connection,
        sent: usize,
    ) -> std::result::Result<(ResponseHead, Framing), Failed> {
        connection.answered = false;
        let result = self.write_and_read(connection, sent).await;
        result.map_err(|error| Failed {
            unanswered: connection.buffer.is_empty()
                && !connection.answered
                && *error.cause() == Cause::Closed,
            error,
        })
    }

    async fn write_and_read(
        &self,
        connection: &mut Connection,
        sent: usize,
    ) -> Result<(ResponseHead, Framing)> {
        let first_part = self.continue_at.unwrap_or(self.bytes().len());
        let mut written = self
            .write(connection, &self.bytes()[sent..first_part])
            .await?;
        if self.continue_at.is_some() {
            if let Some(declined) = self.await_continue(connection).await? {
                return self.framed(connection, declined);
            }
            written = self.write(connection, &self.bytes()[first_part..]).await?;
        }
        let head = self.read_response(connection).await;
        match (head, written) {
            (Ok(head), Written::Whole) => self.framed(connection, head),
            (Ok(head), Written::Partly) => {
                connection.keeps_alive = false;
                self.framed(connection, head)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Waits until the body may be sent: a while, or until the server says so. The head of its
    /// final response if it declines the body.
    pub async fn await_continue(
        &self,
        connection: &mut Connection,
    ) -> Result<Option<ResponseHead>> {
        let waiting = self.read_head(connection, true);
        match tokio::time::timeout(CONTINUE_WAIT, waiting).await {
            Ok(Ok(head)) if head.status == 100 => Ok(None),
            Ok(Ok(head)) => {
                // The server may still take the body that it declined for the next request.
                connection.keeps_alive = false;
                Ok(Some(head))
            }
            // The read timeout may be shorter than this wait.
            Ok(Err(error)) if *error.cause() == Cause::Timeout => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Reads the head of the final response.
    pub async fn read_response(&self, connection: &mut Connection) -> Result<ResponseHead> {
        self.read_head(connection, false).await
    }

    /// How the body behind `head` ends, and whether the connection outlives it.
    pub fn framed(
        &self,
        connection: &mut Connection,
        head: ResponseHead,
    ) -> Result<(ResponseHead, Framing)> {
        let framing = Framing::of(&head, &self.method)
            .map_err(|malformed| Error::malformed(Stage::Response, &malformed))?;
        // After 101 the connection speaks another protocol (RFC 9110, 15.2.2).
        // After a 2xx to CONNECT it leads somewhere else.
        let tunnels = self.method == "CONNECT" && head.status < 300;
        if !head.keeps_alive() || framing == Framing::Close || head.status == 101 || tunnels {
            connection.keeps_alive = false;
        }
        Ok((head, framing))
    }

    /// The read timeout bounds the whole head, interim responses included, so that a server that
    /// drips bytes cannot stretch it.
    async fn read_head(&self, connection: &mut Connection, interim: bool) -> Result<ResponseHead> {
        let deadline = Instant::now() + self.timeouts.read();
        for _ in 0..http1::MAX_INTERIM {
            let head = self.next_head(connection, deadline).await?;
            let is_final = head.status >= 200 || head.status == 101;
            if is_final || (interim && head.status == 100) {
                return Ok(head);
            }
        }
        let malformed = http1::Malformed::NoFinalResponse;
        Err(Error::malformed(Stage::Response, &malformed))
    }

    async fn next_head(
        &self,
        connection: &mut Connection,
        deadline: Instant,
    ) -> Result<ResponseHead> {
        let mut searched = 0;
        loop {
            if let Some(end) = http1::find_end(&connection.buffer, searched)
                && end <= self.limits.head_bytes
            {
                let head = http1::parse(&connection.buffer[..end], &self.limits)
                    .map_err(|malformed| Error::malformed(Stage::Response, &malformed))?;
                connection.buffer.drain(..end);
                connection.answered = true;
                return Ok(head);
            }
            searched = connection.buffer.len();
            if searched >= self.limits.head_bytes {
                let limit = "max_header_size";
                let too_large = http1::Malformed::HeadTooLarge { limit };
                return Err(Error::malformed(Stage::Response, &too_large));
            }
            match tokio::time::timeout_at(deadline, connection.fill()).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(connection.explain_end(Stage::Response)),
                Ok(Err(error)) => return Err(connection.explain(&error, Stage::Response)),
                Err(_) => return Err(Error::timeout(Stage::Response)),
            }
        }
    }

    /// Writes `bytes`, unless the server answers with an error before it has them all.
    async fn write(&self, connection: &mut Connection, bytes: &[u8]) -> Result<Written> {
        write(connection, bytes, self.timeouts).await
    }
}

/// Whether the server has been given the whole request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// All of it.
    Whole,
    /// The server answered with an error, or closed, before. What it said can be read.
    Partly,
}

/// Writes `bytes` and whatever was buffered before, within the send timeout for each step forward.
pub async fn write(
    connection: &mut Connection,
    bytes: &[u8],
    timeouts: Timeouts,
) -> Result<Written> {
    let mut written = 0;
    loop {
        let step = poll_fn(|cx| {
            // The response has to be read meanwhile: a server that answers before it has read
            // everything may otherwise never read the rest, and both sides would wait.
            if written < bytes.len() && poll_refused(connection, cx) {
                return Poll::Ready(Ok(Step::Answered));
            }
            let polled = match written < bytes.len() {
                true => connection
                    .poll_write(cx, &bytes[written..])
                    .map_ok(|count| {
                        written += count;
                        Step::Progress
                    }),
                false => connection.poll_flush(cx).map_ok(|()| Step::Done),
            };
            match polled {
                Poll::Ready(Ok(step)) => Poll::Ready(Ok(step)),
                // EPIPE and ECONNRESET: the alert or the response that says why may be unread.
                Poll::Ready(Err(_)) => Poll::Ready(Ok(Step::Answered)),
                Poll::Pending if poll_refused(connection, cx) => Poll::Ready(Ok(Step::Answered)),
                Poll::Pending => Poll::Pending,
            }
        });
        match within(timeouts.send(), Stage::Send, step).await? {
            Step::Progress => {}
            Step::Done => return Ok(Written::Whole),
            Step::Answered => return Ok(Written::Partly),
        }
    }
}

enum Step {
    Progress,
    Done,
    Answered,
}

/// Reads ahead until there is nothing more: only then will more data wake this task. True if the
/// server is done with what is being written.
fn poll_refused(connection: &mut Connection, cx: &mut Context<'_>) -> bool {
    while !connection.has_ended()
        && connection.buffer.len() < EARLY_LIMIT
        && connection.poll_look_ahead(cx)
    {
        // A server that ends while earlier responses are due may have answered those.
        let is_done = connection.has_ended() && connection.responses_due <= 1;
        if is_done || is_refused(connection) {
            return true;
        }
    }
    is_refused(connection)
}

/// Whether the server has begun to answer what is being written with a status of 400 or above
/// (RFC 9112, 9.3.1: stop sending then). While earlier responses are due, it is one of those.
fn is_refused(connection: &Connection) -> bool {
    if connection.responses_due > 1 {
        return false;
    }
    let mut rest = connection.buffer.as_slice();
    while is_status(rest, |class| class == b'1')
        && let Some(end) = http1::find_end(rest, 0)
    {
        rest = &rest[end..];
    }
    is_status(rest, |class| class >= b'4')
}

fn is_status(head: &[u8], is_class: impl Fn(u8) -> bool) -> bool {
    head.starts_with(b"HTTP/1.") && head.get(9).is_some_and(|&class| is_class(class))
}
