//! What makes a connection go on: its frames, its pings, its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
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

/// Streams that we have reset and for how long they are remembered: their frames may be on the way, and
/// in a crowd of calls that time out together all of them. Frames of a stream that is forgotten count
/// as errors, and h2 would end a connection after 1024 of these in its life, with all its streams.
const RESET_STREAMS: usize = 4096;
const RESET_TIME: Duration = Duration::from_secs(30);

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
        .max_concurrent_reset_streams(RESET_STREAMS)
        .reset_stream_duration(RESET_TIME)
        .max_local_error_reset_streams(None)
        .initial_max_send_streams(UNKNOWN)
        .handshake::<_, Bytes>(wire);
    let (sender, mut h2) = beginning.await.map_err(failed)?;
    let is_known = |limit| limit != UNKNOWN;
    let limit = await_limit(&mut h2, is_known).await;
    let limit = limit.map_err(|fault| (fault, health.clone()))?;
    Ok(Driver {
        pings: h2.ping_pong(),
        h2,
        connection: Connection::new(sender, limit, health, idle_for),
        patience,
        asked: None,
        answers: Answers::default(),
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
    answers: Answers,
    /// Since when the server has only had to see the end of the connection.
    ending: Option<Instant>,
}

/// The pings that the server has answered while it sent nothing else.
#[derive(Debug, Default)]
struct Answers {
    count: u32,
    last: Option<Instant>,
}

impl Answers {
    /// For how long it may be silent after these. It has shown that it is there, and servers of gRPC
    /// end a connection with the third ping that comes within 5 minutes of the one before, if they
    /// have sent nothing in between (gRPC proposal A8).
    fn lengthen(&self, patience: Duration) -> Duration {
        const FACTOR: u32 = 8;
        const LONGEST: Duration = Duration::from_secs(600);
        let lengthened = patience.saturating_mul(FACTOR.saturating_pow(self.count));
        lengthened.min(LONGEST).max(patience)
    }

    fn add(&mut self) {
        self.count += 1;
        self.last = Some(Instant::now());
    }

    /// Forgets them if there was something else since.
    fn look(&mut self, silent_since: Instant) {
        if self.last.is_none_or(|last| last < silent_since) {
            self.count = 0;
        }
    }
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
        self.connection.health()
    }

    /// Drives the connection to its end; `retired` is called before that, as soon as it takes no new
    /// streams.
    pub async fn run(mut self, retired: impl Fn(&Arc<Connection>)) {
        let connection = self.connection.clone();
        let _ending = Ending(&connection, &retired);
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
            self.answers.add();
            let mut state = self.connection.lock();
            state.is_trusted = true;
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
    fn alarm(&mut self) -> Option<Instant> {
        if let Some(ending) = self.ending {
            return Some(ending + self.patience);
        }
        let heard = self.connection.health().last_read();
        if let Some(asked) = self.asked {
            return Some(asked.max(heard) + self.patience);
        }
        let state = self.connection.lock();
        let silent_since = heard.max(state.waiting_since);
        // Whoever has opened a stream since wants to know again.
        self.answers.look(heard.max(state.opened));
        (state.streams > 0).then(|| silent_since + self.answers.lengthen(self.patience))
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

/// Has nobody take a place on a connection that nothing drives any more, however that has come about.
struct Ending<'a, R: Fn(&Arc<Connection>)>(&'a Arc<Connection>, &'a R);

impl<R: Fn(&Arc<Connection>)> Drop for Ending<'_, R> {
    fn drop(&mut self) {
        self.0.retire();
        (self.1)(self.0);
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
    use http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// SETTINGS with nothing in it (RFC 9113, 6.5).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    #[test]
    fn a_server_that_answers_pings_gets_fewer_of_them() {
        let patience = Duration::from_secs(10);
        let mut answers = Answers::default();
        let silent_since = Instant::now();
        let mut gaps = Vec::new();
        for _ in 0..4 {
            answers.look(silent_since);
            gaps.push(answers.lengthen(patience).as_secs());
            answers.add();
        }
        assert_eq!(gaps, [10, 80, 600, 600]);
        std::thread::sleep(Duration::from_millis(1));
        answers.look(Instant::now());
        assert_eq!(answers.lengthen(patience), patience);
    }

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

    #[tokio::test]
    async fn whoever_has_a_place_keeps_it_when_the_connection_is_closed_to_others() {
        let (io, mut server) = tokio::io::duplex(1024);
        server.write_all(&SETTINGS).await.unwrap();
        let driver = start(io, Duration::from_secs(60), None).await.unwrap();
        let connection = driver.connection().clone();
        tokio::spawn(driver.run(|_| {}));
        assert!(connection.take_place().is_some());
        connection.close_to_others();
        assert_eq!(connection.take_place(), None);
        let request = || Request::get("http://localhost/").body(()).unwrap();
        assert!(connection.open(request(), true).await.is_ok());
        connection.give_place_back();
        assert!(!connection.is_open());
        assert!(connection.open(request(), true).await.is_err());
    }

    /// Something to read that is a panic.
    struct Panics(tokio::io::DuplexStream, Arc<std::sync::atomic::AtomicBool>);

    impl AsyncRead for Panics {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            let panics = self.1.load(std::sync::atomic::Ordering::Relaxed);
            assert!(!panics, "this is part of a test");
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Panics {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<std::io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn nobody_takes_a_place_once_the_driver_has_panicked() {
        let (io, mut server) = tokio::io::duplex(1024);
        server.write_all(&SETTINGS).await.unwrap();
        let panics = Arc::default();
        let io = Panics(io, Arc::clone(&panics));
        let driver = start(io, Duration::from_secs(60), None).await.unwrap();
        let connection = driver.connection().clone();
        panics.store(true, std::sync::atomic::Ordering::Relaxed);
        let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = told.clone();
        let count = move |_: &Arc<Connection>| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        server.write_all(&SETTINGS).await.unwrap();
        assert!(tokio::spawn(driver.run(count)).await.is_err());
        assert!(!connection.is_open());
        assert_eq!(connection.take_place(), None);
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
