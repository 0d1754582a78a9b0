//! What the Lua thread and the task of an operation share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::body::Body;
use super::link::Link;
use super::reading::Source;
use super::trace::{Timing, Trace};
use crate::error::Error;
use crate::http1::ResponseHead;
use crate::mailbox::Completion;

/// State of a client behind a lock that is only ever held for moments: one side is nginx.
#[derive(Debug, Default)]
pub struct Shared {
    state: Mutex<State>,
    /// Tells the reading task that the consumer has taken or wants something.
    pub changed: Notify,
}

/// See [`Shared`].
#[derive(Debug, Default)]
pub struct State {
    /// Where the connection is.
    pub phase: Phase,
    /// How the last operation ended, until it is asked for.
    pub outcome: Option<Result<(), Error>>,
    /// The response that is being read or taken.
    pub response: Option<Box<Response>>,
    /// The task that has the connection. Kept no longer than that: it holds the memory of the task,
    /// and a client that Lua has not collected yet may be one of many.
    pub task: Option<AbortHandle>,
    /// How the last connection came to be, or how far it came.
    pub trace: Option<Arc<Trace>>,
    /// What is known of the last connect or request, also after it has failed.
    pub attempt: Attempt,
}

/// Which attempt at a call it is, and on which connection.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// How often the connection had been used before; `None` while there is none.
    pub reused: Option<u32>,
    /// 2 if the request was sent again.
    pub number: u32,
}

impl Default for Attempt {
    fn default() -> Self {
        Self::on(None)
    }
}

impl Attempt {
    /// The first one.
    pub fn on(reused: Option<u32>) -> Self {
        Self { reused, number: 1 }
    }

    /// One more.
    pub fn again(reused: u32) -> Self {
        Self {
            reused: Some(reused),
            number: 2,
        }
    }
}

/// Where the connection of a client is.
#[derive(Debug, Default)]
pub enum Phase {
    /// There is none.
    #[default]
    Closed,
    /// There is none, since the server took too long to answer. Like a cosocket in that case, it can
    /// still be closed.
    GivenUp,
    /// Here, for the next operation.
    Idle(Link),
    /// With the task of an operation. How often it came out of the pool, once that is known.
    Busy(Option<u32>),
}

/// A response whose head has come. Boxed wherever it goes: tasks move all that they hold.
#[derive(Debug)]
pub struct Response {
    /// The head, until Lua takes it.
    pub summary: Option<Summary>,
    /// The body.
    pub body: Body,
    /// A consumer that waits for part of the body.
    pub waiter: Option<Waiter>,
    /// When what came.
    pub timing: Timing,
}

/// What is known of a response before its body.
#[derive(Debug)]
pub struct Summary {
    /// Status and headers.
    pub head: ResponseHead,
    /// Whether there can be a body.
    pub has_body: bool,
    /// Whether there can be trailers behind it.
    pub has_trailers: bool,
    /// Whether the connection may be used again.
    pub keeps_alive: bool,
    /// When what came.
    pub timing: Timing,
}

/// A light thread that waits for part of a body.
#[derive(Debug)]
pub struct Waiter {
    /// `take(max)` has to be ready; for `None` the whole body.
    pub until: Until,
    /// Dropped when that is so.
    pub completion: Completion,
}

/// What a waiter waits for.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// The next part of at most so many bytes.
    Part(Option<usize>),
    /// The end.
    Whole,
}

impl Shared {
    /// Without a connection, but with what is left of an earlier one.
    pub fn with_rest(
        response: Option<Box<Response>>,
        trace: Option<Arc<Trace>>,
        attempt: Attempt,
    ) -> Self {
        let state = Mutex::new(State {
            response,
            trace,
            attempt,
            ..State::default()
        });
        Self {
            state,
            changed: Notify::new(),
        }
    }

    /// Locks the state.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an operation whose task has given up or kept the connection.
    pub fn conclude(&self, phase: Phase, outcome: Result<(), Error>, completion: Completion) {
        let mut state = self.lock();
        let phase = match (&outcome, phase) {
            (Err(error), Phase::Closed) if error.is_read_timeout() => Phase::GivenUp,
            (_, phase) => phase,
        };
        if let Phase::Idle(link) = &phase {
            state.trace = Some(link.trace().clone());
        }
        state.phase = phase;
        state.outcome = Some(outcome);
        state.task = None;
        drop(state);
        drop(completion);
    }
}

impl Shared {
    /// Ends an operation that was to bring a connection, and came as far as `trace` says.
    pub fn connected(&self, connected: Result<Link, Error>, trace: Trace, completion: Completion) {
        match connected {
            Ok(link) => self.conclude(Phase::Idle(link), Ok(()), completion),
            Err(error) => {
                self.lock().trace = Some(Arc::new(trace));
                self.conclude(Phase::Closed, Err(error), completion);
            }
        }
    }

    /// Ends an operation that has brought a response. The source of its body comes back if that has
    /// to be read yet.
    pub fn present<S: Source>(
        &self,
        response: Box<Response>,
        source: S,
        finished: bool,
    ) -> Option<S> {
        let mut state = self.lock();
        state.outcome = Some(Ok(()));
        state.response = Some(response);
        state.settle(source, finished)
    }
}

impl State {
    /// Puts the connection where it belongs when its response is finished.
    pub fn settle<S: Source>(&mut self, source: S, finished: bool) -> Option<S> {
        if !finished {
            return Some(source);
        }
        self.task = None;
        self.phase = match &self.response {
            Some(response) if response.body.is_complete() => Phase::Idle(source.into_link()),
            Some(response) if response.body.error().is_some_and(Error::is_read_timeout) => {
                Phase::GivenUp
            }
            _ => Phase::Closed,
        };
        None
    }
}

impl Response {
    /// A response of which nothing has been taken.
    pub fn new(summary: Summary, body: Body) -> Box<Self> {
        Box::new(Self {
            timing: summary.timing.clone(),
            summary: Some(summary),
            body,
            waiter: None,
        })
    }

    /// The completion of the waiter, if it has what it waits for.
    pub fn satisfied(&mut self) -> Option<Completion> {
        let waiter = self.waiter.as_ref()?;
        let ready = match waiter.until {
            Until::Part(max) => self.body.is_ready(max),
            Until::Whole => self.body.is_finished(),
        };
        match ready {
            true => self.waiter.take().map(|waiter| waiter.completion),
            false => None,
        }
    }
}
