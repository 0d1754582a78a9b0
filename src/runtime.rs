//! The engine of a process: one background thread with a tokio runtime, and what lives with it.
//!
//! Modules are loaded in the nginx master and used in the workers that it forks, and a fork copies
//! memory but no thread. So the engine starts with the first operation, never at `require`, and
//! belongs to the process that started it: a child finds none and starts its own. What the parent
//! had stays behind untouched, locks and sockets included: its epoll set is shared with the
//! parent, and dropping a socket here would take it out of the parent's set as well.
//!
//! The thread ends only by a panic: tokio's own, when epoll fails. What it was doing is completed as
//! its tasks are dropped, and the next operation starts another one for the same engine.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

use crate::client::{ConnectionPool, Destination, Gates, Sharing};
use crate::error::Result;
use crate::log::Log;
use crate::memory::Crowd;
use crate::net::Resolver;
use crate::stats::{Snapshot, Stats, Tallies};
use crate::threads;
use crate::tls::ProfileCache;

/// See the module. It is never freed: a few hundred bytes for each process that made a request.
#[derive(Debug)]
pub struct Engine {
    /// Of the thread that was started last.
    handle: RwLock<Option<Handle>>,
    /// Whether that thread runs.
    is_running: AtomicBool,
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

static STARTING: Mutex<()> = Mutex::new(());

/// Threads of this process that have ended.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// The number of the thread that runs now, or else of the next. A connection is registered with the
/// epoll set of the thread that has opened it, and of no use to another one.
pub fn thread_number() -> u64 {
    ENDED.load(Ordering::Acquire)
}

const MINUTE: Duration = Duration::from_secs(60);

/// getaddrinfo and file reads block; this many of them at a time may hang.
const BLOCKING_THREADS: usize = 16;

impl Engine {
    /// The engine of this process, with a thread that runs.
    ///
    /// # Errors
    ///
    /// The system gives no thread, or no epoll set.
    pub fn current() -> Result<&'static Self> {
        let is_running = |engine: &&Self| engine.is_running.load(Ordering::Acquire);
        if let Some(engine) = Self::started().filter(is_running) {
            return Ok(engine);
        }
        // Two may come at once, from ngx.run_worker_thread.
        let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = Self::started().unwrap_or_else(Self::make);
        if !is_running(&engine) {
            engine.run()?;
        }
        Ok(engine)
    }

    /// The engine of this process if there is one, for those who only want to look at it.
    pub fn started() -> Option<&'static Self> {
        // SAFETY: the pointer is null or from `Box::leak`.
        unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
    }

    /// Whether this is the engine of the running process, and not that of a parent before a fork.
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
        all.set("keys_held", self.profiles.keys());
        (all, destinations)
    }

    /// How many operations are in flight and connections are open.
    pub fn size(&self) -> u64 {
        self.stats.operations_in_flight.get() + self.tallies.connections_open()
    }

    /// What is to be done once a minute.
    pub fn minute_passes(&self) {
        self.gates.drop_unused();
        self.profiles.minute_passes();
    }

    /// Runs a task on the runtime. If the thread has ended, the task is dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        let task = handle.as_ref()?.spawn(task);
        Some(task.abort_handle())
    }

    fn make() -> &'static Self {
        forget_after_fork();
        let log = Arc::<Log>::default();
        let engine: &'static Self = Box::leak(Box::new(Self {
            handle: RwLock::default(),
            is_running: AtomicBool::new(false),
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
        CURRENT.store(ptr::from_ref(engine).cast_mut(), Ordering::Release);
        engine
    }

    /// Starts the thread.
    fn run(&'static self) -> Result<()> {
        let failed = |error| threads::none("cannot start the runtime thread", &error);
        // What came back from Lua since the last thread has ended.
        self.drop_connections();
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("resty-mtls-wait")
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        with_signals_blocked(|| {
            std::thread::Builder::new()
                .name("resty-mtls".to_owned())
                .spawn(move || self.serve(runtime))
        })
        .map_err(failed)?;
        *self.handle.write().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        self.is_running.store(true, Ordering::Release);
        Ok(())
    }

    /// The thread.
    fn serve(&'static self, runtime: Runtime) {
        let minutes = async {
            loop {
                tokio::time::sleep(MINUTE).await;
                self.minute_passes();
            }
        };
        let serving = AssertUnwindSafe(|| runtime.block_on(minutes));
        let _ = catch_unwind(serving);
        self.log.error(
            "the background thread has ended by a panic, and with it what it was doing; the next \
             call starts another one. Please report this, with what standard error says"
                .to_owned(),
        );
        // From here on, no connection that there is can be used. Whoever is told below that a call has
        // failed may make another one at once.
        ENDED.fetch_add(1, Ordering::AcqRel);
        // Not later: then there may be some of another thread.
        let _ = catch_unwind(AssertUnwindSafe(|| self.drop_connections()));
        self.is_running.store(false, Ordering::Release);
        // Drops all tasks, which completes their operations, and waits for no helper thread.
        let _ = catch_unwind(AssertUnwindSafe(|| runtime.shutdown_background()));
    }

    /// Closes what nobody uses now.
    fn drop_connections(&self) {
        self.pool.clear();
        self.sharing.clear();
        self.crowd.clear();
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
