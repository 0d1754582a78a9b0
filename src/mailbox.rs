//! Completed operations of one Lua VM, and the socket that wakes its dispatcher.
//!
//! A mailbox belongs to a Lua VM, not to the process: the http and stream subsystems and
//! `lua_code_cache off` give one nginx worker several VMs, and a shared queue would wake the wrong
//! one. The runtime's thread puts ids in; the VM's thread takes them out.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::runtime::Engine;

#[expect(
    unsafe_code,
    reason = "asks the kernel whose the other end of a wake socket is"
)]
mod channel;

pub use channel::Listener;

/// Number of an operation, chosen by the VM that submits it.
pub type OperationId = u64;

/// How long a dispatcher stays after its last operation, before it lets the worker idle.
const LINGER: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub struct Mailbox {
    engine: &'static Engine,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    completed: Vec<OperationId>,
    in_flight: usize,
    /// Whether the thread of this VM waits in [`Mailbox::block`].
    is_blocked: bool,
    /// Whether a wake has been sent since the last drain; one is enough.
    notified: bool,
    /// Our ends of the wake sockets: the dispatcher's, and those of light threads without one.
    wakers: Vec<(WakerId, Arc<WakeSocket>)>,
    next_waker: WakerId,
    /// Operations submitted so far, to tell an idle VM from a busy one.
    submitted: u64,
}

/// Number of a wake socket within its mailbox.
pub type WakerId = u64;

/// Our end of a wake socket.
#[derive(Debug)]
pub enum WakeSocket {
    /// A unix socket pair, the rule.
    Unix(UnixStream),
    /// A loopback connection, where no directory can be written to.
    Tcp(std::net::TcpStream),
}

/// What a dispatcher has to do after a wake.
#[derive(Debug, Default)]
pub struct Drained {
    /// Operations that are complete.
    pub completed: Vec<OperationId>,
    /// Nothing is in flight and nothing was for a while.
    pub idle: bool,
}

impl Mailbox {
    /// A mailbox on the engine of this process.
    pub fn new(engine: &'static Engine) -> Arc<Self> {
        Arc::new(Self {
            engine,
            state: Mutex::default(),
            arrived: Condvar::new(),
        })
    }

    /// Announces an operation. It is complete when the [`Completion`] is dropped, however that
    /// comes about: done, aborted, or panicked.
    pub fn submit(self: &Arc<Self>, id: OperationId) -> Completion {
        let mut state = self.lock();
        state.in_flight += 1;
        state.submitted += 1;
        drop(state);
        self.engine.stats.operations.increment();
        self.engine.stats.operations_in_flight.increment();
        let in_flight = self.engine.stats.operations_in_flight.get();
        self.engine.crowd.note(in_flight);
        Completion {
            mailbox: self.clone(),
            id,
        }
    }

    /// Takes the completed operations.
    pub fn drain(&self) -> Drained {
        let mut state = self.lock();
        state.notified = false;
        let completed = std::mem::take(&mut state.completed);
        state.in_flight -= completed.len();
        let idle = state.in_flight == 0 && completed.is_empty();
        drop(state);
        for _ in &completed {
            self.engine.stats.operations_in_flight.decrement();
        }
        Drained { completed, idle }
    }

    /// Blocks the calling thread until operation `id` is complete; false if `limit` passes first.
    /// For init and init_worker, and for plain LuaJIT, where nothing else is to be done.
    pub fn block(&self, id: OperationId, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if state.completed.contains(&id) {
                drop(state);
                // Only one operation at a time can be waited for like this. Others in the queue
                // belong to calls that failed before they waited.
                self.drain();
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state.is_blocked = true;
            let (woken, _) = self
                .arrived
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.is_blocked = false;
        }
    }

    /// Adds a wake socket. The first byte is sent at once if operations have completed already.
    pub fn add_waker(self: &Arc<Self>, socket: WakeSocket) -> WakerId {
        let mut state = self.lock();
        let id = state.next_waker;
        state.next_waker += 1;
        let socket = Arc::new(socket);
        let watch = Watch {
            mailbox: self.clone(),
            waker: id,
        };
        let pending = !state.completed.is_empty();
        state.notified |= pending;
        state.wakers.push((id, socket.clone()));
        drop(state);
        if pending {
            self.wake(&socket);
        }
        self.engine.spawn(watch.run());
        id
    }

    /// Whether somebody reads a wake socket.
    pub fn is_heard(&self) -> bool {
        !self.lock().wakers.is_empty()
    }

    /// Closes our end of a wake socket.
    pub fn remove_waker(&self, id: WakerId) {
        self.lock().wakers.retain(|(present, _)| *present != id);
    }

    fn complete(&self, id: OperationId) {
        let mut state = self.lock();
        state.completed.push(id);
        // Outside of the lock: a system call, and the other side wants to drain at once.
        let wakers = match std::mem::replace(&mut state.notified, true) {
            false => state
                .wakers
                .iter()
                .map(|(_, socket)| socket.clone())
                .collect(),
            true => Vec::new(),
        };
        let is_blocked = state.is_blocked;
        drop(state);
        // A system call, also where nobody waits.
        if is_blocked {
            self.arrived.notify_all();
        }
        for socket in wakers {
            self.wake(&socket);
        }
    }

    fn wake(&self, socket: &WakeSocket) {
        self.engine.stats.wakes.increment();
        // A dispatcher that is gone has left its operations to the next one; nothing to report.
        let _ = socket.send(&[1]);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the wake that says "idle long enough, go": a dispatcher waits without a time-out, since
/// ngx_lua logs each cosocket time-out as an error, and an idle worker has to be free to exit.
///
/// When it is dropped, be it with the runtime's thread, our end of the socket is closed. Nobody would
/// say "go" any more, and a dispatcher that has something left to wait for opens another one.
struct Watch {
    mailbox: Arc<Mailbox>,
    waker: WakerId,
}

impl Watch {
    async fn run(self) {
        let mut seen = None;
        loop {
            tokio::time::sleep(LINGER).await;
            let state = self.mailbox.lock();
            let mut wakers = state.wakers.iter();
            let Some((_, socket)) = wakers.find(|(id, _)| *id == self.waker) else {
                return;
            };
            if socket.is_closed() {
                // Its light thread was killed. Nobody else will remove it.
                return;
            }
            let idle = state.in_flight == 0 && seen == Some(state.submitted);
            let socket = idle.then(|| socket.clone());
            seen = Some(state.submitted);
            drop(state);
            if let Some(socket) = socket {
                self.mailbox.wake(&socket);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.mailbox.remove_waker(self.waker);
    }
}

impl WakeSocket {
    /// Whether the other end is gone. It never sends anything.
    fn is_closed(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit(); 1];
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let peeked = match self {
            Self::Unix(stream) => SockRef::from(stream).recv_with_flags(&mut byte, flags),
            Self::Tcp(stream) => SockRef::from(stream).recv_with_flags(&mut byte, flags),
        };
        !matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    fn send(&self, bytes: &[u8]) -> std::io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        match self {
            Self::Unix(stream) => SockRef::from(stream).send_with_flags(bytes, flags),
            Self::Tcp(stream) => SockRef::from(stream).send_with_flags(bytes, flags),
        }
    }
}

/// Completes its operation when dropped.
#[derive(Debug)]
pub struct Completion {
    mailbox: Arc<Mailbox>,
    id: OperationId,
}

impl Drop for Completion {
    fn drop(&mut self) {
        self.mailbox.complete(self.id);
    }
}
