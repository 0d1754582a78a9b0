//! HTTP/2 connections of this process, by what makes them interchangeable.
//!
//! As in the pool, the key is the destination: what is authenticated differently is never the same.
//! Whoever needs a connection when there is none with a free place opens one, and all others wait for
//! it, as many as it is going to have places: a hundred light threads at once make one connection, and
//! a thousand make some of them at the same time.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::connect::{Route, open, within};
use super::connection::{Origin, Stream};
use super::lease::{Lease, explain_start};
use super::link::Link;
use super::meter::{Metered, Open};
use super::trace::Trace;
use super::{Destination, Timeouts};
use crate::error::{Cause, Error, Result, Stage};
use crate::http2::{self, Driver, Fault, Health};
use crate::runtime::Engine;
use crate::tls::Protocols;

/// See the module.
#[derive(Debug, Default)]
pub struct Sharing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Arc<Destination>, Entry>,
    /// Whether somebody has been told to sweep.
    swept: bool,
}

#[derive(Debug, Default)]
struct Entry {
    lines: Vec<Arc<Line>>,
    /// The connection that was begun to be opened last.
    opening: Option<Opening>,
    /// The places of the one that was opened last.
    places: Option<usize>,
    /// The server has chosen HTTP/1.1: nobody need wait for what cannot be shared.
    is_http1: bool,
}

/// A connection that is being opened.
#[derive(Debug)]
struct Opening {
    /// Told how it ended by whoever opens it.
    ended: watch::Receiver<Option<Ended>>,
    /// How many more may wait for it. As many as come while nobody knows what the server allows.
    room: Option<usize>,
}

/// A shared connection and how it came to be.
#[derive(Debug)]
pub struct Line {
    /// The connection.
    pub http2: Arc<http2::Connection>,
    /// Where it comes from.
    pub origin: Origin,
}

impl Line {
    fn is_outdated(&self) -> bool {
        self.origin.is_lost()
            || self.origin.generation != self.origin.route.destination.generation()
    }
}

/// How opening a connection ended, for those who wait.
type Ended = std::result::Result<(), Error>;

/// What somebody who needs a connection has to do.
enum Turn {
    Take(Arc<Line>, u32),
    Open(Option<watch::Sender<Option<Ended>>>),
    Wait(watch::Receiver<Option<Ended>>),
}

/// For how long a connection is kept that nobody has given back with a time of their own.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// How long a server may be silent, and then leave a ping unanswered (RFC 9113, 6.7). Within these
/// bounds it is the read time-out of who opens the connection; others use it as well, and may have
/// more time.
const PATIENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10);

impl Sharing {
    /// A place on a connection that is there.
    pub fn lend(&self, destination: &Arc<Destination>) -> Option<Lease> {
        if destination.protocols == Protocols::Http1 {
            return None;
        }
        let mut state = self.lock();
        let (line, before) = state.entries.get_mut(destination)?.take_place()?;
        Some(Lease::new(line, before))
    }

    /// Tells how many connections to each destination nobody uses now.
    pub fn each_idle(&self, mut tell: impl FnMut(&Destination, usize)) {
        for (destination, entry) in &self.lock().entries {
            let idle = entry.lines.iter().filter(|line| line.http2.is_idle());
            tell(destination, idle.count());
        }
    }

    /// Forgets all of them. Nobody sweeps from now on.
    pub fn clear(&self) {
        let mut state = self.lock();
        let entries: Vec<_> = state.entries.drain().collect();
        state.swept = false;
        drop(state);
        drop(entries);
    }

    /// Ends what has been idle for too long or is outdated. False when nothing is left.
    pub fn sweep(&self) -> bool {
        let mut ended = Vec::new();
        let mut state = self.lock();
        state.entries.retain(|_, entry| {
            let ends = |line: &mut Arc<Line>| line.http2.has_expired() || line.is_outdated();
            ended.extend(entry.lines.extract_if(.., ends));
            entry.is_used()
        });
        state.swept = !state.entries.is_empty();
        let goes_on = state.swept;
        drop(state);
        ended.iter().for_each(|line| line.http2.close_to_others());
        goes_on
    }

    /// Keeps no more than `size` connections to a destination that nobody uses.
    pub fn trim(&self, destination: &Arc<Destination>, size: usize) {
        let mut state = self.lock();
        let Some(entry) = state.entries.get_mut(destination) else {
            return;
        };
        let size = size.max(1);
        if entry.lines.len() <= size {
            return;
        }
        let mut kept = 0;
        let is_over = |line: &mut Arc<Line>| {
            let is_idle = line.http2.is_idle();
            kept += usize::from(is_idle);
            is_idle && kept > size
        };
        let over: Vec<_> = entry.lines.extract_if(.., is_over).collect();
        drop(state);
        over.iter().for_each(|line| line.http2.retire());
    }

    fn turn(&self, destination: &Arc<Destination>) -> Turn {
        let mut state = self.lock();
        let entry = state.entries.entry(destination.clone()).or_default();
        if let Some((line, before)) = entry.take_place() {
            return Turn::Take(line, before);
        }
        if entry.is_http1 {
            return Turn::Open(None);
        }
        if let Some(ended) = entry.opening.as_mut().and_then(Opening::wait_for) {
            return Turn::Wait(ended);
        }
        // There is none, or it was cancelled, or enough wait for it.
        let (sender, ended) = watch::channel(None);
        // One is for whoever opens it.
        let room = entry.places.map(|places| places.saturating_sub(1));
        entry.opening = Some(Opening { ended, room });
        Turn::Open(Some(sender))
    }

    /// Notes what opening a connection came to. True if the caller has to see to it that connections
    /// are swept from now on.
    fn note(&self, destination: &Arc<Destination>, opened: Option<&Arc<Line>>) -> bool {
        let mut state = self.lock();
        let entry = state.entries.entry(destination.clone()).or_default();
        entry.is_http1 = opened.is_none();
        entry.places = opened.map(|line| line.http2.limit());
        entry.lines.extend(opened.cloned());
        !std::mem::replace(&mut state.swept, true)
    }

    fn end_opening(&self, destination: &Arc<Destination>, ended: &watch::Sender<Option<Ended>>) {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get_mut(destination) {
            let is_it = |opening: &mut Opening| ended.subscribe().same_channel(&opening.ended);
            entry.opening.take_if(is_it);
            if entry.opening.is_none() && entry.lines.is_empty() && !entry.is_http1 {
                state.entries.remove(destination);
            }
        }
    }

    fn forget(&self, destination: &Arc<Destination>, connection: &Arc<http2::Connection>) {
        let mut state = self.lock();
        if let Some(entry) = state.entries.get_mut(destination) {
            entry
                .lines
                .retain(|line| !Arc::ptr_eq(&line.http2, connection));
            if !entry.is_used() {
                state.entries.remove(destination);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opening {
    /// Unless whoever opens the connection has been cancelled.
    fn is_going_on(&self) -> bool {
        self.ended.has_changed().is_ok()
    }

    /// For one more who waits, if there is going to be a place.
    fn wait_for(&mut self) -> Option<watch::Receiver<Option<Ended>>> {
        if !self.is_going_on() || self.room == Some(0) {
            return None;
        }
        self.room = self.room.map(|room| room - 1);
        Some(self.ended.clone())
    }
}

impl Entry {
    fn is_used(&self) -> bool {
        !self.lines.is_empty() || self.opening.as_ref().is_some_and(Opening::is_going_on)
    }

    /// The first with a free place, so that the last ones become idle when there is less to do.
    fn take_place(&mut self) -> Option<(Arc<Line>, u32)> {
        let mut usable = self.lines.iter().filter(|line| !line.is_outdated());
        usable.find_map(|line| Some((line.clone(), line.http2.take_place()?)))
    }
}

/// Takes a place on a shared connection, or opens a connection.
///
/// # Errors
///
/// Why there is none.
pub async fn obtain(
    engine: &'static Engine,
    route: Route,
    timeouts: Timeouts,
    trace: &mut Trace,
) -> Result<Link> {
    let destination = route.destination.clone();
    if destination.protocols == Protocols::Http1 {
        return open(engine, route, timeouts, trace).await;
    }
    // However often somebody else opens a connection whose places others take.
    let waits_until = Instant::now() + timeouts.connect();
    loop {
        match engine.sharing.turn(&destination) {
            Turn::Take(line, before) => {
                line.origin.tally.connections_reused.increment();
                return Ok(Link::Shared(Box::new(Lease::new(line, before))));
            }
            Turn::Open(None) => return open(engine, route, timeouts, trace).await,
            Turn::Open(Some(ended)) => {
                let sharing = &engine.sharing;
                let opener = Opener {
                    sharing,
                    destination,
                    ended,
                };
                let opened = open(engine, route, timeouts, trace).await;
                let destination = &opener.destination;
                if let Ok(Link::Own(_)) = opened {
                    note(engine, destination, None);
                }
                let outcome = opened.as_ref().map(|_| ()).map_err(Clone::clone);
                let _ = opener.ended.send(Some(outcome));
                return opened;
            }
            Turn::Wait(mut ended) => {
                let outcome = async {
                    let told = ended.wait_for(Option::is_some).await;
                    Ok(told.ok().and_then(|outcome| outcome.clone()))
                };
                let left = waits_until.saturating_duration_since(Instant::now());
                match within(left, Stage::Connect, outcome).await? {
                    // Its time may have been shorter than ours.
                    Some(Err(error)) if *error.cause() != Cause::Timeout => return Err(error),
                    _ => {}
                }
            }
        }
    }
}

/// Whoever opens a connection. It may be cancelled, and then others must not wait for it.
struct Opener<'a> {
    sharing: &'a Sharing,
    destination: Arc<Destination>,
    ended: watch::Sender<Option<Ended>>,
}

impl Drop for Opener<'_> {
    fn drop(&mut self) {
        self.sharing.end_opening(&self.destination, &self.ended);
    }
}

/// Makes an HTTP/2 connection of what has been opened, and shares it.
///
/// # Errors
///
/// Whoever is there does not speak HTTP/2, or does not let us in.
pub async fn share(
    engine: &'static Engine,
    stream: Stream,
    origin: Origin,
    timeouts: Timeouts,
) -> Result<Lease> {
    let session = stream.session().cloned();
    let tally = origin.tally;
    let stream = Metered::new(stream, tally);
    let explain = |fault: &Fault, health: &Health| explain_start(fault, health, session.as_deref());
    let patience = timeouts.read.clamp(*PATIENCE.start(), *PATIENCE.end());
    let starts_until = Instant::now() + timeouts.connect();
    let starting = async {
        let started = http2::start(stream, patience, Some(IDLE_TIME)).await;
        started.map_err(|(fault, health)| explain(&fault, &health))
    };
    let mut driver = within(timeouts.connect(), Stage::Connect, starting).await?;
    let health = driver.health().clone();
    let waiting = async {
        let waited = driver.await_room().await;
        waited.map_err(|fault| explain(&fault, &health))
    };
    let left = starts_until.saturating_duration_since(Instant::now());
    let waited = within(left, Stage::Connect, waiting).await;
    waited.map_err(|error| match error.cause() {
        Cause::Timeout => error.with_hint(
            "the server allows no streams now (HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS is 0): see \
             its configuration and whether it is overloaded, or set http_version to 1.1",
        ),
        _ => error,
    })?;
    let line = Arc::new(Line {
        http2: driver.connection().clone(),
        origin,
    });
    // Taken before it is shared: there may be one place only, and more who wait for it.
    let before = line.http2.take_place();
    let Some(before) = before else {
        return Err(Error::closed(Stage::Connect));
    };
    let lease = Lease::new(line.clone(), before);
    let destination = line.origin.route.destination.clone();
    note(engine, &destination, Some(&line));
    let open = Open::new(tally);
    engine.spawn(drive(engine, driver, destination, open));
    Ok(lease)
}

fn note(engine: &'static Engine, destination: &Arc<Destination>, opened: Option<&Arc<Line>>) {
    if engine.sharing.note(destination, opened) {
        engine.spawn(sweep(engine));
    }
}

async fn drive(
    engine: &'static Engine,
    driver: Driver<Metered<Stream>>,
    destination: Arc<Destination>,
    _open: Open,
) {
    let retired = |connection: &Arc<http2::Connection>| {
        engine.sharing.forget(&destination, connection);
    };
    driver.run(retired).await;
}

/// Looks after shared connections while there are any.
async fn sweep(engine: &'static Engine) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.look_at_files();
        let goes_on = engine.sharing.sweep();
        engine.crowd.look(|| engine.size());
        if !goes_on {
            return;
        }
    }
}
