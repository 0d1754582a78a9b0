//! One connection and the clients that share it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::coming::Coming;
use super::fault::Fault;
use super::wire::{Health, Wire};

/// What a server may send on a stream before its consumer has taken any of it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// As large as it can be (RFC 9113, 6.9.1): each stream is bounded by itself, and one whose consumer
/// is slow must not hold up the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// A bound on header lists for the whole connection (RFC 9113, 6.5.2), and on what a flood of
/// CONTINUATION frames can make of it. Callers have their own, for each request.
const MAX_HEADER_LIST: u32 = 1024 * 1024;

/// Until the server has said how many streams it allows; nobody is let in before. No SETTINGS can say
/// this number.
const UNKNOWN: usize = usize::MAX - 1;

/// What small frames of data may cost beyond their bytes while nobody has taken them, in h2's own
/// measure: as much as one window full of frames of one byte.
const FRAME_BUDGET: usize = STREAM_WINDOW as usize * 256;

/// See the module.
#[derive(Debug)]
pub struct Connection {
    state: Mutex<State>,
    /// Whether there may be a free place, for a look without the lock: somebody who needs one may
    /// pass by a lot of connections.
    has_room: AtomicBool,
    health: Arc<Health>,
    /// Tells the driver that there is something to watch for.
    nudge: Notify,
}

#[derive(Debug)]
struct State {
    /// `None` once no new stream is let in: h2 ends the connection behind the last one.
    sender: Option<SendRequest<Bytes>>,
    /// Clients that have a place.
    taken: usize,
    /// The server's MAX_CONCURRENT_STREAMS.
    limit: usize,
    /// How often a place was taken.
    lent: u32,
    /// When the last place was given back.
    idle_since: Instant,
    /// Streams that somebody waits for.
    streams: usize,
    /// Since when there has always been one.
    waiting_since: Instant,
    /// How long it may be idle; `None` for ever.
    idle_for: Option<Duration>,
    /// Somebody's time ran out: whether the server is still there has to be found out.
    suspected: bool,
    /// The server did not answer a ping.
    silent: bool,
}

/// Begins an HTTP/2 connection on `io` and waits until the server has said what it allows, be it
/// nothing.
///
/// `patience` is for how long it may be silent, and then leave a ping unanswered, and for how long it
/// may take to see the connection's end.
///
/// # Errors
///
/// The connection ended, with what it knows of why; or whoever is there speaks something else.
pub async fn start<IO>(
    io: IO,
    patience: Duration,
    idle_for: Option<Duration>,
) -> Result<Driver<IO>, (Fault, Arc<Health>)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let health = Arc::<Health>::default();
    let failed = |error: h2::Error| (Fault::from(&error), health.clone());
    let wire = Wire::new(io, health.clone());
    let mut builder = Builder::new();
    let beginning = builder
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .data_frame_budget(FRAME_BUDGET)
        .initial_max_send_streams(UNKNOWN)
        .handshake::<_, Bytes>(wire);
    let (sender, mut h2) = beginning.await.map_err(failed)?;
    let is_known = |limit| limit != UNKNOWN;
    let limit = await_limit(&mut h2, is_known).await;
    let limit = limit.map_err(|fault| (fault, health.clone()))?;
    let state = State {
        sender: Some(sender),
        taken: 0,
        limit,
        lent: 0,
        idle_since: Instant::now(),
        streams: 0,
        waiting_since: Instant::now(),
        idle_for,
        suspected: false,
        silent: false,
    };
    Ok(Driver {
        pings: h2.ping_pong(),
        h2,
        connection: Arc::new(Connection {
            state: Mutex::new(state),
            has_room: AtomicBool::new(true),
            health,
            nudge: Notify::new(),
        }),
        patience,
        asked: None,
        ending: None,
    })
}

/// Drives a connection that nobody shares yet until the server's bound on streams is as wanted.
async fn await_limit<IO>(
    h2: &mut h2::client::Connection<IO, Bytes>,
    is_wanted: impl Fn(usize) -> bool,
) -> Result<usize, Fault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| match Pin::new(&mut *h2).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(Fault::Lost)),
        Poll::Ready(Err(error)) => Poll::Ready(Err(Fault::from(&error))),
        Poll::Pending => match h2.max_concurrent_send_streams() {
            limit if is_wanted(limit) => Poll::Ready(Ok(limit)),
            _ => Poll::Pending,
        },
    })
    .await
}

impl Connection {
    /// Takes a place on it, if there is one: how often one was taken before.
    pub fn take_place(&self) -> Option<u32> {
        if !self.has_room.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.lock();
        if !state.has_room() || state.has_expired() {
            return None;
        }
        state.taken += 1;
        state.lent += 1;
        let before = state.lent - 1;
        self.note_room(&state);
        Some(before)
    }

    /// To be called when something of it has changed.
    fn note_room(&self, state: &State) {
        self.has_room.store(state.has_room(), Ordering::Relaxed);
    }

    /// Gives a place back.
    pub fn give_place_back(&self) {
        let mut state = self.lock();
        state.taken -= 1;
        state.idle_since = Instant::now();
        self.note_room(&state);
    }

    /// Sets for how long it may be idle from now on.
    pub fn set_idle_time(&self, time: Option<Duration>) {
        self.lock().idle_for = time;
    }

    /// Whether nobody has a place.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.is_open() && state.taken == 0
    }

    /// Whether it has been idle for too long.
    pub fn has_expired(&self) -> bool {
        self.lock().has_expired()
    }

    /// The server's MAX_CONCURRENT_STREAMS.
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Whether it can carry another stream at all.
    pub fn is_open(&self) -> bool {
        self.lock().is_open()
    }

    /// Lets in no new stream, and ends the connection behind those that there are.
    pub fn retire(&self) {
        let sender = self.lock().sender.take();
        drop(sender);
        self.nudge.notify_one();
    }

    /// Has the driver find out whether the server is still there, unless it has been heard of since.
    /// One that is slow with one request need not be so with all others.
    pub fn suspect(&self, since: Instant) {
        if self.health.last_read() < since {
            self.lock().suspected = true;
            self.nudge.notify_one();
        }
    }

    /// Whether it was given up since the server did not answer a ping.
    pub fn is_silent(&self) -> bool {
        self.lock().silent
    }

    /// What is known of its bytes.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Opens a stream.
    ///
    /// # Errors
    ///
    /// The connection takes no new ones.
    pub async fn open(
        self: &Arc<Self>,
        request: Request<()>,
        is_whole: bool,
    ) -> Result<Stream, Fault> {
        let Some(sender) = self.lock().sender.clone() else {
            // Nothing of it has been sent.
            return Err(Fault::Unprocessed("NO_ERROR".to_owned()));
        };
        let mut sender = match sender.ready().await {
            Ok(sender) => sender,
            Err(error) => return Err(Fault::unsent(&error)),
        };
        let opened = sender.send_request(request, is_whole);
        let (response, body) = opened.map_err(|error| Fault::unsent(&error))?;
        Ok(Stream {
            response: Coming::new(response),
            body,
            in_flight: InFlight::new(self.clone()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request on its way, and what is to come of it.
#[derive(Debug)]
pub struct Stream {
    /// The head of the response.
    pub response: Coming,
    /// Where the body of the request goes.
    pub body: SendStream<Bytes>,
    /// Keeps the server under watch.
    pub in_flight: InFlight,
}

/// Somebody waits for a stream for as long as this is there.
#[derive(Debug)]
pub struct InFlight(Arc<Connection>);

impl InFlight {
    fn new(connection: Arc<Connection>) -> Self {
        let mut state = connection.lock();
        state.streams += 1;
        let is_first = state.streams == 1;
        if is_first {
            state.waiting_since = Instant::now();
        }
        drop(state);
        if is_first {
            connection.nudge.notify_one();
        }
        Self(connection)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.streams -= 1;
        let is_over = state.streams == 0 && !state.is_open();
        drop(state);
        if is_over {
            self.0.nudge.notify_one();
        }
    }
}

impl State {
    fn is_open(&self) -> bool {
        self.sender.is_some()
    }

    fn has_room(&self) -> bool {
        self.is_open() && !self.suspected && self.taken < self.limit
    }

    fn has_expired(&self) -> bool {
        let expired = |time| self.idle_since.elapsed() >= time;
        self.taken == 0 && self.idle_for.is_some_and(expired)
    }
}

/// What makes a connection go on. Dropping it ends the connection.
#[derive(Debug)]
pub struct Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    h2: h2::client::Connection<Wire<IO>, Bytes>,
    pings: Option<PingPong>,
    connection: Arc<Connection>,
    patience: Duration,
    /// Since when a ping has not been answered.
    asked: Option<Instant>,
    /// Since when the server has only had to see the end of the connection.
    ending: Option<Instant>,
}

/// What the driver wakes up for.
enum Event {
    Ended,
    Retired,
    Nudged,
    TimeUp,
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// What it drives.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Waits until the server allows a stream, if it has allowed none so far.
    ///
    /// # Errors
    ///
    /// The connection ended.
    pub async fn await_room(&mut self) -> Result<(), Fault> {
        let limit = await_limit(&mut self.h2, |limit| limit > 0).await?;
        self.connection.lock().limit = limit;
        Ok(())
    }

    /// What is known of its bytes.
    pub fn health(&self) -> &Arc<Health> {
        &self.connection.health
    }

    /// Drives the connection to its end; `retired` is called before that, as soon as it takes no new
    /// streams.
    pub async fn run(mut self, retired: impl Fn(&Arc<Connection>)) {
        let connection = self.connection.clone();
        loop {
            self.note_ending();
            let alarm = self.alarm();
            let is_open = connection.is_open();
            let event = tokio::select! {
                biased;
                event = poll_fn(|cx| self.poll(cx, is_open)) => event,
                () = connection.nudge.notified() => Event::Nudged,
                () = sleep_until(alarm) => Event::TimeUp,
            };
            match event {
                Event::Ended => break,
                Event::Retired => retired(&connection),
                Event::Nudged => self.look_if_suspected(),
                // A server that reads nothing would keep us waiting to tell it that we are done.
                Event::TimeUp if self.ending.is_some() => break,
                Event::TimeUp => {
                    if !self.ask() {
                        connection.lock().silent = true;
                        break;
                    }
                }
            }
        }
        connection.retire();
        retired(&connection);
    }

    fn poll(&mut self, cx: &mut Context<'_>, is_open: bool) -> Poll<Event> {
        if Pin::new(&mut self.h2).poll(cx).is_ready() {
            return Poll::Ready(Event::Ended);
        }
        if let Some(pings) = &mut self.pings
            && self.asked.is_some()
            && let Poll::Ready(answer) = pings.poll_pong(cx)
        {
            self.asked = None;
            let mut state = self.connection.lock();
            state.suspected = answer.is_err();
            self.connection.note_room(&state);
        }
        let limit = self.h2.max_concurrent_send_streams();
        let mut state = self.connection.lock();
        state.limit = limit;
        self.connection.note_room(&state);
        // h2 refuses new streams once there was a GOAWAY, or the stream ids are used up.
        let refuses = |sender: &mut SendRequest<_>| match sender.poll_ready(cx) {
            Poll::Ready(ready) => ready.is_err(),
            Poll::Pending => false,
        };
        let refused = match state.sender.as_mut().is_some_and(refuses) {
            true => state.sender.take(),
            false => None,
        };
        let is_retired = is_open && state.sender.is_none();
        drop(state);
        drop(refused);
        match is_retired {
            true => Poll::Ready(Event::Retired),
            false => Poll::Pending,
        }
    }

    fn note_ending(&mut self) {
        let state = self.connection.lock();
        self.ending = match state.streams == 0 && !state.is_open() {
            true => self.ending.or_else(|| Some(Instant::now())),
            false => None,
        };
    }

    /// When to look again whether the server is still there.
    fn alarm(&self) -> Option<Instant> {
        if let Some(ending) = self.ending {
            return Some(ending + self.patience);
        }
        let heard = self.connection.health.last_read();
        if let Some(asked) = self.asked {
            return Some(asked.max(heard) + self.patience);
        }
        let state = self.connection.lock();
        (state.streams > 0).then(|| heard.max(state.waiting_since) + self.patience)
    }

    fn look_if_suspected(&mut self) {
        let is_suspected = self.connection.lock().suspected;
        if is_suspected && self.asked.is_none() {
            self.send_ping();
        }
    }

    /// Pings a server that has been silent. False if it has not answered an earlier ping.
    fn ask(&mut self) -> bool {
        let is_late = self.alarm().is_some_and(|alarm| alarm <= Instant::now());
        match self.asked {
            Some(_) if is_late => return false,
            None if is_late => self.send_ping(),
            _ => {}
        }
        true
    }

    fn send_ping(&mut self) {
        if let Some(pings) = &mut self.pings
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.asked = Some(Instant::now());
        }
    }
}

async fn sleep_until(alarm: Option<Instant>) {
    match alarm {
        Some(alarm) => tokio::time::sleep_until(alarm.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// SETTINGS with nothing in it (RFC 9113, 6.5).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn a_server_that_reads_nothing_does_not_keep_an_ending_connection() {
        // Takes the beginning of the connection, and no more than is on its way then.
        let (io, mut server) = tokio::io::duplex(256);
        server.write_all(&SETTINGS).await.unwrap();
        let mut beginning = [0; 64];
        let (started, taken) = tokio::join!(
            start(io, Duration::from_millis(50), None),
            server.read_exact(&mut beginning),
        );
        taken.unwrap();
        let driver = started.unwrap();
        let connection = driver.connection().clone();
        let running = tokio::spawn(driver.run(|_| {}));
        let request = Request::post("http://localhost/").body(()).unwrap();
        let mut stream = connection.open(request, false).await.unwrap();
        stream.body.send_data(vec![0; 60_000].into(), true).unwrap();
        // The driver has its turns, on this thread, until it can write no more.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        drop(stream);
        connection.retire();
        tokio::time::timeout(Duration::from_secs(20), running)
            .await
            .unwrap()
            .unwrap();
    }
}
