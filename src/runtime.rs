//! The engine of a process: one background thread with a tokio runtime, and what lives with it.
//!
//! Modules are loaded in the nginx master and used in the workers that it forks, and a fork copies
//! memory but no thread. So the engine starts with the first operation, never at `require`, and
//! belongs to the process that started it: a child finds none and starts its own. What the parent
//! had stays behind untouched, locks and sockets included: its epoll set is shared with the
//! parent, and dropping a socket here would take it out of the parent's set as well.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Arc, Once};

use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::client::{ConnectionPool, Destination, Gates, Sharing};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::memory::Crowd;
use crate::net::Resolver;
use crate::stats::{Snapshot, Stats, Tallies};
use crate::tls::ProfileCache;

/// See the module. It is never freed: a few hundred bytes for each process that made a request.
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    /// Idle connections.
    pub pool: ConnectionPool,
    /// HTTP/2 connections.
    pub sharing: Sharing,
    /// Bounds on the connections in use.
    pub gates: Gates,
    /// Names looked up.
    pub resolver: Resolver,
    /// TLS profiles by their options.
    pub profiles: ProfileCache,
    /// What has to be said in nginx's error log.
    pub log: Arc<Log>,
    /// Counters of what has no destination.
    pub stats: Stats,
    /// Counters of what has one.
    pub tallies: Tallies,
    /// When to give memory back.
    pub crowd: Crowd,
    /// Whether the warning about unverified servers has been given.
    pub warned_unverified: AtomicBool,
}

static CURRENT: AtomicPtr<Engine> = AtomicPtr::new(ptr::null_mut());

/// getaddrinfo and file reads block; this many of them at a time may hang.
const BLOCKING_THREADS: usize = 16;

impl Engine {
    /// The engine of this process, started if there is none yet. Only the Lua thread calls this,
    /// so there is no race to start it.
    ///
    /// # Errors
    ///
    /// The system gives no thread, or no epoll set.
    pub fn current() -> Result<&'static Self> {
        match Self::started() {
            Some(engine) => Ok(engine),
            None => Self::start(),
        }
    }

    /// The engine of this process if there is one, for those who only want to look at it.
    pub fn started() -> Option<&'static Self> {
        // SAFETY: the pointer is null or from `Box::leak`.
        unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
    }

    /// Whether this is the engine of the running process: not that of a parent before a fork, and
    /// not one whose thread has died.
    pub fn is_current(&self) -> bool {
        ptr::eq(CURRENT.load(Ordering::Acquire), self)
    }

    /// The values of all counters: of the process, and by destination.
    pub fn figures(&'static self) -> (Snapshot, BTreeMap<String, Snapshot>) {
        let mut idle = HashMap::<String, u64>::new();
        let mut tell = |destination: &Destination, count: usize| {
            let name = destination.name();
            let name = self.tallies.counted_as(&name);
            *idle.entry(name.to_owned()).or_default() += count as u64;
        };
        self.pool
            .each_idle(|destination, count| tell(destination, count));
        self.sharing.each_idle(tell);
        let mut all = self.stats.snapshot();
        let mut destinations = BTreeMap::new();
        for (name, mut snapshot) in self.tallies.snapshots() {
            let idle = idle.get(&name).copied().unwrap_or_default();
            snapshot.set("connections_idle", idle);
            all.add(&snapshot);
            destinations.insert(name, snapshot);
        }
        (all, destinations)
    }

    /// How many operations are in flight and connections are open.
    pub fn size(&self) -> u64 {
        self.stats.operations_in_flight.get() + self.tallies.connections_open()
    }

    /// Runs a task on the runtime.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }

    fn start() -> Result<&'static Self> {
        forget_after_fork();
        let failed = |error| Error::internal(format!("cannot start the runtime thread: {error}"));
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("resty-mtls-wait")
            .build()
            .map_err(failed)?;
        let log = Arc::<Log>::default();
        let engine: &'static Self = Box::leak(Box::new(Self {
            handle: runtime.handle().clone(),
            pool: ConnectionPool::default(),
            sharing: Sharing::default(),
            gates: Gates::default(),
            resolver: Resolver::default(),
            profiles: ProfileCache::new(log.clone()),
            log,
            stats: Stats::default(),
            tallies: Tallies::default(),
            crowd: Crowd::default(),
            warned_unverified: AtomicBool::new(false),
        }));
        let serve = move || {
            let _gone = ForgetOnExit(engine);
            runtime.block_on(std::future::pending::<()>());
        };
        with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("resty-mtls".to_owned())
                .spawn(serve)
        })
        .map_err(failed)?;
        CURRENT.store(ptr::from_ref(engine).cast_mut(), Ordering::Release);
        Ok(engine)
    }
}

/// Should the thread ever end, the next operation starts a new engine; those of the old one are
/// completed as their tasks are dropped with it.
struct ForgetOnExit(&'static Engine);

impl Drop for ForgetOnExit {
    fn drop(&mut self) {
        let engine = ptr::from_ref(self.0).cast_mut();
        // Fails if another engine is current already, which is fine.
        let _ =
            CURRENT.compare_exchange(engine, ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Makes a forked child start without an engine, at the cost of nothing per request.
fn forget_after_fork() {
    static ONCE: Once = Once::new();
    extern "C" fn in_child() {
        // An atomic store is all that is safe between fork and exec of a threaded process.
        CURRENT.store(ptr::null_mut(), Ordering::Release);
    }
    ONCE.call_once(|| {
        // SAFETY: the handler is async-signal-safe and, the library being linked with
        // `-z nodelete`, is never unmapped. Failure (no memory) leaves a child with a dead
        // engine, whose operations then end by their time-outs.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// nginx's signals are for nginx's thread; and SIGPIPE, which plain LuaJIT does not ignore, must
/// not end the process when the runtime writes to a closed socket. Threads inherit the mask.
fn with_signals_blocked<T>(start: impl FnOnce() -> T) -> T {
    // SAFETY: the sets are initialised by sigfillset and pthread_sigmask before they are read.
    unsafe {
        let mut all = std::mem::zeroed();
        let mut before = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let started = start();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        started
    }
}
