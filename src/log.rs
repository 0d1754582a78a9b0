//! What has to be said in nginx's error log. Only Lua can write there, so it waits here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Messages that have not been written yet.
#[derive(Debug, Default)]
pub struct Log {
    state: Mutex<State>,
    has_entries: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// What has been said a while ago, and when.
    said: VecDeque<(Entry, Instant)>,
}

/// A message for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How bad it is.
    pub level: Level,
    /// What it is.
    pub text: String,
}

/// A level of nginx's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `ngx.ERR`
    Error,
    /// `ngx.WARN`
    Warn,
}

/// While nobody makes requests, nobody takes messages either. The oldest go first.
const MAX_ENTRIES: usize = 100;

/// One file may be part of many profiles: what is the same is said once in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(5);

impl Log {
    /// Something that has to be put right.
    pub fn error(&self, text: String) {
        self.add(Level::Error, text);
    }

    /// Something to look at.
    pub fn warn(&self, text: String) {
        self.add(Level::Warn, text);
    }

    /// Whether there is something.
    pub fn has_entries(&self) -> bool {
        self.has_entries.load(Ordering::Acquire)
    }

    /// What there is. Costs next to nothing if there is nothing.
    pub fn take(&self) -> VecDeque<Entry> {
        if !self.has_entries.swap(false, Ordering::AcqRel) {
            return VecDeque::new();
        }
        std::mem::take(&mut self.lock().entries)
    }

    fn add(&self, level: Level, text: String) {
        let entry = Entry { level, text };
        let mut state = self.lock();
        state.said.retain(|(_, at)| at.elapsed() < REPEAT_AFTER);
        if state.said.iter().any(|(said, _)| *said == entry) {
            return;
        }
        if state.entries.len() >= MAX_ENTRIES {
            state.entries.pop_front();
        }
        if state.said.len() >= MAX_ENTRIES {
            state.said.pop_front();
        }
        state.said.push_back((entry.clone(), Instant::now()));
        state.entries.push_back(entry);
        self.has_entries.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
