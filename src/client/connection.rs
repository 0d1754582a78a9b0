//! An established connection: TLS or plain, with what has been read ahead.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::client::TlsStream;

use super::meter::{Open, Unanswered};
use super::trace::{Timing, Trace};
use super::{Destination, Generation, Route};
use crate::error::{Error, Result, Stage};
use crate::net::{Transport, has_plaintext, is_silent};
use crate::pool::Idle;
use crate::runtime;
use crate::stats::Tally;
use crate::tls::{InUse, Session};

/// See the module.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// Bytes read and not used yet.
    pub buffer: Vec<u8>,
    /// How often it came out of the pool.
    pub reused: u32,
    /// Whether both sides want it to carry another request.
    pub keeps_alive: bool,
    /// Its place among the connections in use, where their number is bounded.
    pub permit: Option<OwnedSemaphorePermit>,
    /// Responses to what was sent that have not been read. While there are any, whoever got the
    /// connection would be answered with somebody else's response.
    pub responses_due: u32,
    /// Whether a response, if only an interim one, has come to the current request: the server has
    /// seen it then.
    pub answered: bool,
    /// What is left to send of a request body whose length its head has announced.
    pub body_left: Option<u64>,
    /// Counts the requests on it.
    pub unanswered: Unanswered,
    /// How reading ended while nobody asked: an alert is told once, and what comes after it on a
    /// reset connection says nothing.
    ended: Option<io::Result<usize>>,
    /// Whether it has carried a request before the current one.
    is_used: bool,
    began: Instant,
    first_byte: Option<Instant>,
    origin: Origin,
    open: Open,
}

/// What carries the bytes.
#[derive(Debug)]
pub enum Stream {
    /// As they are.
    Plain(Transport),
    /// Encrypted.
    Tls(Box<TlsStream<Transport>>, Arc<Session>, InUse),
}

impl Stream {
    /// That of TLS.
    pub fn session(&self) -> Option<&Arc<Session>> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(_, session, _) => Some(session),
        }
    }

    /// Appends what has been decrypted already: how many bytes. A record that is an alert, or broken,
    /// is told of in front of the data that came before it, if one read of the socket brought both.
    fn take_decrypted(&mut self, buffer: &mut Vec<u8>) -> usize {
        let Self::Tls(stream, ..) = self else {
            return 0;
        };
        let before = buffer.len();
        // It ends with WouldBlock, or for a connection that has ended with Ok.
        let _ = io::Read::read_to_end(&mut stream.get_mut().1.reader(), buffer);
        buffer.len() - before
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_read(cx, space),
            Self::Tls(stream, ..) => poll_read_tls(stream, cx, space),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_write(cx, bytes),
            Self::Tls(stream, ..) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_flush(cx),
            Self::Tls(stream, ..) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(transport) => Pin::new(transport).poll_shutdown(cx),
            Self::Tls(stream, ..) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Where a connection comes from.
#[derive(Debug)]
pub struct Origin {
    /// How it got there.
    pub route: Route,
    /// That of the destination's profiles when it was opened.
    pub generation: Generation,
    /// The runtime's thread that has opened it.
    pub thread: u64,
    /// What happened on the way.
    pub trace: Arc<Trace>,
    /// Where what happens on it is counted.
    pub tally: &'static Tally,
}

impl Origin {
    /// Whether the thread that has opened it has ended.
    pub fn is_lost(&self) -> bool {
        self.thread != runtime::thread_number()
    }
}

/// One TLS record (RFC 8446, 5.1), and what a socket is likely to have at once.
const READ_SIZE: usize = 16 * 1024;

/// An idle connection keeps a buffer of up to this size: there may be ten thousand of them.
const KEPT_SIZE: usize = 2 * 1024;

thread_local! {
    /// What is read into while a connection has no large buffer of its own. Most responses are small,
    /// and allocating room for a record for each of them costs more than copying it.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads of an idle connection, of 4 KiB each. Servers send one ticket or a few. This runs on nginx's
/// event loop, which one that sends them without end would hold up for as long.
const MAX_TICKET_READS: usize = 8;

/// More than this is not encrypted on the caller's thread: it is nginx's event loop.
const WRITE_NOW_LIMIT: usize = READ_SIZE;

impl Connection {
    /// A connection that is ready for a request.
    pub fn new(
        stream: Stream,
        origin: Origin,
        permit: Option<OwnedSemaphorePermit>,
        open: Open,
    ) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            reused: 0,
            keeps_alive: true,
            permit,
            responses_due: 0,
            answered: false,
            body_left: None,
            unanswered: Unanswered::none(origin.tally),
            ended: None,
            is_used: false,
            began: Instant::now(),
            first_byte: None,
            origin,
            open,
        }
    }

    /// The parts of a plain connection, for its TLS handshake.
    ///
    /// # Errors
    ///
    /// It is TLS already, or the server has spoken before us.
    pub fn into_plain(self) -> Result<(Transport, Origin, Option<OwnedSemaphorePermit>, Open)> {
        match self.stream {
            Stream::Plain(transport) if self.buffer.is_empty() => {
                Ok((transport, self.origin, self.permit, self.open))
            }
            Stream::Plain(_) => Err(Error::bad_argument(
                "a TLS handshake cannot begin with data of the server unread",
            )),
            Stream::Tls(..) => Err(Error::bad_argument("the connection is TLS already")),
        }
    }

    /// Where it leads.
    pub fn destination(&self) -> &Arc<Destination> {
        &self.origin.route.destination
    }

    /// How it got there.
    pub fn route(&self) -> &Route {
        &self.origin.route
    }

    /// How it came to be.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.origin.trace
    }

    /// Where what happens on it is counted.
    pub fn tally(&self) -> &'static Tally {
        self.origin.tally
    }

    /// Notes that a request is being sent.
    pub fn begin_request(&mut self) {
        self.began = Instant::now();
        self.first_byte = None;
    }

    /// Notes that the head of a response has come, and tells when what came.
    pub fn end_head(&mut self) -> Timing {
        let head = Instant::now();
        let opening = (!self.is_used && self.reused == 0).then(|| self.origin.trace.clone());
        self.is_used = true;
        Timing {
            opening,
            began: self.began,
            first_byte: self.first_byte.take().unwrap_or(head),
            head,
        }
    }

    /// Writes what can be written at once from the caller's thread, which spares a hop to the
    /// runtime. Returns how many bytes need not be written again; an error shows in the next step,
    /// which can read why.
    pub fn write_now(&mut self, bytes: &[u8]) -> usize {
        if bytes.len() > WRITE_NOW_LIMIT {
            return 0;
        }
        let taken = match &mut self.stream {
            Stream::Plain(transport) => transport.write_now(bytes).unwrap_or(0),
            Stream::Tls(stream, ..) => {
                let (transport, tls) = stream.get_mut();
                let taken = io::Write::write(&mut tls.writer(), bytes).unwrap_or(0);
                flush_now(transport, tls);
                taken
            }
        };
        self.origin.tally.bytes_sent.add(taken as u64);
        taken
    }

    /// Lets go of what an idle connection need not hold.
    pub fn settle(&mut self) {
        if self.buffer.capacity() > KEPT_SIZE {
            self.buffer = Vec::new();
        }
        self.transport().forget_waker();
        if self.reused == 0
            && let Stream::Tls(_, session, _) = &self.stream
        {
            session.settle();
        }
    }

    fn transport(&self) -> &Transport {
        match &self.stream {
            Stream::Plain(transport) => transport,
            Stream::Tls(stream, ..) => stream.get_ref().0,
        }
    }

    /// Tells the server that we are done (RFC 8446, 6.1), as far as that works without waiting.
    pub fn close(mut self) {
        if let Stream::Tls(stream, ..) = &mut self.stream {
            let (transport, tls) = stream.get_mut();
            tls.send_close_notify();
            flush_now(transport, tls);
        }
    }

    /// Writes some of `bytes`, or part of what was buffered by [`Self::write_now`].
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.origin.tally.bytes_sent.add(count as u64);
        }
        polled
    }

    /// Sends what is buffered.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Reads ahead while something else is being done. True when there is something new: data, the
    /// end, or an error, which the next [`Self::poll_fill`] returns.
    pub fn poll_look_ahead(&mut self, cx: &mut Context<'_>) -> bool {
        match self.poll_fill(cx) {
            Poll::Ready(Ok(1..)) => true,
            Poll::Ready(end) => {
                self.ended = Some(end);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Whether something has been read, here or within TLS, that no response has taken: data, or
    /// the word that the server is done.
    pub fn has_unread(&mut self) -> bool {
        let silent = match &mut self.stream {
            Stream::Plain(_) => true,
            Stream::Tls(stream, ..) => is_silent(stream),
        };
        !self.buffer.is_empty() || self.ended.is_some() || !silent
    }

    /// Whether data has been read, here or within TLS, that no response has taken.
    pub fn has_data(&mut self) -> bool {
        let within = match &mut self.stream {
            Stream::Plain(_) => false,
            Stream::Tls(stream, ..) => has_plaintext(stream),
        };
        within || !self.buffer.is_empty()
    }

    /// Whether reading has ended, be it with an error.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Reads more into the buffer: how many bytes, 0 at the end of the connection.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(end) = self.ended.take() {
            return Poll::Ready(end);
        }
        let (polled, filled) = match self.buffer.capacity() < READ_SIZE {
            true => SCRATCH.with_borrow_mut(|scratch| {
                scratch.clear();
                let (polled, filled) = poll_into(&mut self.stream, cx, scratch);
                if filled == READ_SIZE {
                    // A large response, of which more is to come.
                    self.buffer.reserve(2 * READ_SIZE);
                }
                self.buffer.extend_from_slice(scratch);
                (polled, filled)
            }),
            false => poll_into(&mut self.stream, cx, &mut self.buffer),
        };
        let polled = match polled {
            Poll::Ready(Err(error)) => match self.stream.take_decrypted(&mut self.buffer) {
                0 => Poll::Ready(Err(error)),
                count => {
                    self.ended = Some(Err(error));
                    Poll::Ready(Ok(count))
                }
            },
            other => other.map_ok(|()| filled),
        };
        if let Poll::Ready(Ok(count)) = &polled {
            self.origin.tally.bytes_received.add(*count as u64);
        }
        if matches!(polled, Poll::Ready(Ok(1..))) && self.first_byte.is_none() {
            self.first_byte = Some(Instant::now());
        }
        polled
    }

    /// Reads more into the buffer. Safe to cancel: what has been read is in the buffer.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// The error for an I/O error on this connection, with TLS's explanation where it has one.
    pub fn explain(&self, error: &io::Error, stage: Stage) -> Error {
        match &self.stream {
            Stream::Plain(_) => Error::closed(stage),
            Stream::Tls(_, session, _) => session
                .explain(error, stage)
                .unwrap_or_else(|| session.explain_closed(stage)),
        }
    }

    /// The error for a connection that ended where it must not.
    pub fn explain_end(&self, stage: Stage) -> Error {
        match &self.stream {
            Stream::Plain(_) => Error::closed(stage),
            Stream::Tls(_, session, _) => session.explain_closed(stage),
        }
    }
}

impl Connection {
    /// Whether the runtime's thread that has opened it has ended.
    pub fn is_lost(&self) -> bool {
        self.origin.is_lost()
    }

    /// Whether its identity or its trust has been replaced since it was opened, or it is lost.
    fn is_outdated(&self) -> bool {
        self.origin.is_lost() || self.origin.generation != self.destination().generation()
    }
}

impl Idle for Connection {
    fn is_usable(&mut self) -> bool {
        if self.is_outdated() || self.has_unread() {
            return false;
        }
        match &mut self.stream {
            Stream::Plain(transport) => transport.is_quiet(),
            Stream::Tls(stream, ..) => {
                let (transport, tls) = stream.get_mut();
                // Session tickets may still arrive after a response; they are no reason to drop
                // the connection. Data, an alert or the end are.
                transport.is_quiet() || takes_only_tickets(transport, tls)
            }
        }
    }

    fn seems_usable(&mut self) -> bool {
        if self.is_outdated() {
            return false;
        }
        match &mut self.stream {
            Stream::Plain(transport) => transport.seems_quiet(),
            Stream::Tls(stream, ..) => stream.get_mut().0.seems_quiet() || self.is_usable(),
        }
    }
}

/// Appends up to a record to `buffer`: how many bytes.
fn poll_into(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut Vec<u8>,
) -> (Poll<io::Result<()>>, usize) {
    buffer.reserve(READ_SIZE);
    let mut space = ReadBuf::uninit(&mut buffer.spare_capacity_mut()[..READ_SIZE]);
    let polled = Pin::new(stream).poll_read(cx, &mut space);
    let filled = space.filled().len();
    let length = buffer.len() + filled;
    // SAFETY: the space is the vector's own, right behind its elements, and what a ReadBuf has filled
    // is initialised.
    unsafe { buffer.set_len(length) };
    (polled, filled)
}

/// Reads, and sends what TLS has to say to what was read: that we do not renegotiate (RFC 5246,
/// 7.2.2), or new keys (RFC 8446, 4.6.3). The server may wait for it, and we write nothing meanwhile.
fn poll_read_tls(
    stream: &mut TlsStream<Transport>,
    cx: &mut Context<'_>,
    space: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let polled = Pin::new(&mut *stream).poll_read(cx, space);
    if polled.is_pending() && stream.get_ref().1.wants_write() {
        // That the connection is broken shows when it is read again.
        let _ = Pin::new(stream).poll_flush(cx);
    }
    polled
}

fn takes_only_tickets(transport: &Transport, tls: &mut rustls::ClientConnection) -> bool {
    struct Now<'a>(&'a Transport);

    impl io::Read for Now<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0.read_now(bytes)
        }
    }

    for _ in 0..MAX_TICKET_READS {
        match tls.read_tls(&mut Now(transport)) {
            Ok(0) => return false,
            Ok(_) => match tls.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                _ => return false,
            },
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    false
}

fn flush_now(transport: &Transport, tls: &mut rustls::ClientConnection) {
    struct Now<'a>(&'a Transport);

    impl io::Write for Now<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write_now(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    while tls.wants_write() {
        // What the socket does not take now stays in rustls' buffer for the runtime to send.
        if !matches!(tls.write_tls(&mut Now(transport)), Ok(1..)) {
            break;
        }
    }
}
