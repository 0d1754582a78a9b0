//! What has to be said in nginx's error log. Only Lua can write there, so it waits here.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Messages that have not been written yet.
#[derive(Debug, Default)]
pub struct Log {
    entries: Mutex<VecDeque<Entry>>,
    has_entries: AtomicBool,
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

impl Log {
    /// Something that has to be put right.
    pub fn error(&self, text: String) {
        self.add(Level::Error, text);
    }

    /// Something to look at.
    pub fn warn(&self, text: String) {
        self.add(Level::Warn, text);
    }

    /// What there is. Costs next to nothing if there is nothing.
    pub fn take(&self) -> VecDeque<Entry> {
        if !self.has_entries.swap(false, Ordering::AcqRel) {
            return VecDeque::new();
        }
        std::mem::take(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, level: Level, text: String) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(Entry { level, text });
        self.has_entries.store(true, Ordering::Release);
    }
}
