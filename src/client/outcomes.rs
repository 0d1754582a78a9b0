//! What the operations of a client have brought, as the Lua thread takes it.

use std::sync::Arc;
use std::time::Duration;

use super::Client;
use super::body::{Body, Taken};
use super::state::{Attempt, Phase, Summary, Until, Waiter};
use super::trace::Trace;
use crate::error::{Error, Result, Stage};
use crate::http1::Header;
use crate::mailbox::Completion;

impl Client {
    /// How the last operation ended. An operation that was cancelled, or has panicked, has
    /// left no outcome.
    ///
    /// # Errors
    ///
    /// The operation's error.
    pub fn outcome(&self) -> Result<()> {
        let mut state = self.shared.lock();
        if let Some(outcome) = state.outcome.take() {
            return outcome;
        }
        // Whoever cancels leaves a state behind that is not busy.
        let error = match state.phase {
            Phase::Busy(Some(_)) => Error::ended(Stage::Response),
            Phase::Busy(None) => Error::ended(Stage::Connect),
            _ => return Err(Error::closed(Stage::Connect)),
        };
        state.phase = Phase::Closed;
        state.task = None;
        Err(error)
    }

    /// The response head, once.
    pub fn take_head(&self) -> Option<Summary> {
        self.shared.lock().response.as_mut()?.summary.take()
    }

    /// Takes the next part of the body: at most `max` bytes, or else a wire chunk or all of it.
    ///
    /// # Errors
    ///
    /// Why the body ended early.
    pub fn take_part<T>(
        &self,
        max: Option<usize>,
        give: impl FnOnce(&[u8]) -> T,
    ) -> Result<Taken<T>> {
        self.take(|body| body.take(max, give))
    }

    /// Takes the rest of the body.
    ///
    /// # Errors
    ///
    /// Why the body ended early.
    pub fn take_whole<T>(&self, give: impl FnOnce(&[u8]) -> T) -> Result<Taken<T>> {
        self.take(|body| body.take_all(give))
    }

    /// Bytes of the body that have come and were not taken.
    pub fn buffered(&self) -> usize {
        let state = self.shared.lock();
        let response = state.response.as_ref();
        response.map_or(0, |response| response.body.buffered())
    }

    /// Operation: waits until [`Self::take_part`] or [`Self::take_whole`] has something to say.
    pub fn await_body(&self, until: Until, completion: Completion) {
        let mut state = self.shared.lock();
        let done = match &mut state.response {
            None => Some(completion),
            Some(response) => {
                match until {
                    Until::Part(max) => response.body.want(max),
                    Until::Whole => response.body.want_all(),
                }
                let replaced = response.waiter.replace(Waiter { until, completion });
                drop(replaced);
                response.satisfied()
            }
        };
        drop(state);
        drop(done);
        self.shared.changed.notify_one();
    }

    /// Trailer fields of the response, after its body.
    pub fn trailers(&self) -> Vec<Header> {
        let state = self.shared.lock();
        let body = state.response.as_ref().map(|response| &response.body);
        body.map(|body| body.trailers().to_vec())
            .unwrap_or_default()
    }

    /// How the last connection of this client came to be, or how far it came.
    pub fn trace(&self) -> Option<Arc<Trace>> {
        self.shared.lock().trace.clone()
    }

    /// What is known of the last connect or request, also after it has failed.
    pub fn attempt(&self) -> Attempt {
        self.shared.lock().attempt
    }

    /// How long the response took, opening the connection included: to the end of its body if that
    /// has come, and else to the end of its head.
    pub fn total_time(&self) -> Option<Duration> {
        let state = self.shared.lock();
        let response = state.response.as_ref()?;
        let end = response.body.ended_at().unwrap_or(response.timing.head);
        Some(response.timing.total(end))
    }

    fn take<T>(&self, take: impl FnOnce(&mut Body) -> Result<Taken<T>>) -> Result<Taken<T>> {
        let mut state = self.shared.lock();
        let Some(response) = &mut state.response else {
            return Err(Error::closed(Stage::Body).with_hint(
                "the response is gone: read its body before set_keepalive, close or the next \
                 request",
            ));
        };
        let was_full = response.body.is_full();
        let taken = take(&mut response.body);
        // Waking the reading task costs a system call: only if it stopped for want of room.
        let resumes = was_full && !response.body.is_full() && !response.body.is_finished();
        drop(state);
        if resumes {
            self.shared.changed.notify_one();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::Mailbox;
    use crate::runtime::Engine;

    #[test]
    fn an_operation_that_panics_is_complete_and_an_error_and_others_go_on() {
        let engine = Engine::current().unwrap();
        let mailbox = Mailbox::new(engine);
        let soon = Duration::from_secs(20);
        for id in 1..=3 {
            let client = Client::new(engine);
            let completion = mailbox.submit(id);
            client.begin(async move {
                let _completion = completion;
                panic!("this is part of a test");
            });
            assert!(mailbox.block(id, soon));
            let error = client.outcome().unwrap_err();
            assert_eq!((error.code(), error.stage()), ("internal", "connect"));
            assert!(error.hint().is_some_and(|hint| hint.contains("report")));
            // There is nothing to close.
            assert_eq!(client.reused_times(), None);

            let shared = client.shared.clone();
            let completion = mailbox.submit(id + 10);
            client.begin(async move { shared.conclude(Phase::Closed, Ok(()), completion) });
            assert!(mailbox.block(id + 10, soon));
            assert_eq!(client.outcome(), Ok(()));
        }
    }
}
