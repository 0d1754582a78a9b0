//! TLS profile: what decides whether two connections are interchangeable.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::{self, Loaded, ProfileOptions};
use super::source::FileState;
use crate::error::Result;
use crate::log::Log;

/// A profile and, once it has been needed, what was made of its options.
///
/// Two profiles are the same only if they are the same object: [`ProfileCache`] gives equal
/// options the same one, and with it the same connections and the same session tickets.
#[derive(Debug)]
pub struct Profile {
    options: ProfileOptions,
    log: Arc<Log>,
    state: Mutex<State>,
    /// One load at a time: the later one has the newer files.
    loading: Mutex<()>,
    /// That of what is loaded, for a look without the lock.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    loaded: Option<Loaded>,
    /// The files that it was loaded from.
    files: Vec<FileState>,
    /// When they were last looked at.
    checked: Option<Instant>,
    /// Files that could not be used, which has been complained of, and when to try them again.
    refused: Option<(Vec<FileState>, Instant)>,
    /// Whether somebody looks at them now: on a file system that hangs, one of us is enough.
    looks: bool,
}

/// What could not be used may be usable now though no file has changed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Files are looked at no more often. The sweeper of the pool comes as often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Profile {
    /// What an earlier connection has loaded, unless it is time to look whether it has changed.
    /// Then `None`, and whoever gets it looks; the others go on meanwhile.
    pub fn ready(&self) -> Option<Loaded> {
        let mut state = self.lock();
        let loaded = state.loaded.clone()?;
        if !self.options.may_change() {
            return Some(loaded);
        }
        let is_due = state
            .checked
            .is_none_or(|at| at.elapsed() >= CHECK_INTERVAL);
        if !is_due || state.looks {
            return Some(loaded);
        }
        state.looks = true;
        None
    }

    /// Loads the profile, or loads it again if its files have changed. Reads files and parses keys:
    /// not for the event loop.
    ///
    /// # Errors
    ///
    /// What is wrong with the options. Once the profile is loaded, files that cannot be used are
    /// only complained of, and what was loaded before stays: half of a file is a moment in the life
    /// of one that is being written.
    pub fn load(&self) -> Result<Loaded> {
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at before they are read, so that a change in between is found the next time.
        let files = self.options.file_states();
        if let Some(loaded) = self.unchanged(&files) {
            return Ok(loaded);
        }
        let result = config::load(&self.options, &self.log);
        let mut state = self.lock();
        match (result, state.loaded.clone()) {
            (Ok(loaded), _) => {
                for warning in loaded.warnings() {
                    self.log.warn(warning.clone());
                }
                let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
                let loaded = loaded.with_generation(generation);
                state.loaded = Some(loaded.clone());
                state.files = files;
                Ok(loaded)
            }
            (Err(error), Some(loaded)) => {
                if !state.has_refused(&files) {
                    self.log.error(format!(
                        "{} changed and cannot be used; the previous one stays in use: {error}",
                        changed(&state.files, &files)
                    ));
                }
                // What was found out of them is nothing, if the process could open no file.
                let pause = match error.cause().is_exhaustion() {
                    true => CHECK_INTERVAL,
                    false => RETRY_INTERVAL,
                };
                state.refused = Some((files, Instant::now() + pause));
                Ok(loaded)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// What an earlier connection has loaded.
    pub fn loaded(&self) -> Option<Loaded> {
        self.lock().loaded.clone()
    }

    /// Which of its states is loaded: connections of an earlier one are not used again.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the server's certificate is judged.
    pub fn verifies(&self) -> bool {
        self.options.verify
    }

    /// Whether it is loaded from files and has to be looked at, by whoever is told so.
    fn is_due(&self) -> bool {
        let is_loaded = self.lock().loaded.is_some();
        is_loaded && self.ready().is_none()
    }

    fn unchanged(&self, files: &[FileState]) -> Option<Loaded> {
        let state = self.lock();
        let is_unchanged = state.files == files || state.is_refused(files);
        state.loaded.clone().filter(|_| is_unchanged)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_refused(&self, files: &[FileState]) -> bool {
        matches!(&self.refused, Some((refused, _)) if refused == files)
    }

    /// Whether these files have been refused, and it is too early to try them again.
    fn is_refused(&self, files: &[FileState]) -> bool {
        let is_early = |again: &Instant| Instant::now() < *again;
        self.has_refused(files) && self.refused.as_ref().is_some_and(|(_, at)| is_early(at))
    }
}

/// The paths whose states differ.
fn changed(before: &[FileState], now: &[FileState]) -> String {
    let mut paths: Vec<_> = now
        .iter()
        .filter(|file| !before.contains(file))
        .map(FileState::path)
        .collect();
    // One file may have both certificate and key.
    paths.sort();
    paths.dedup();
    if paths.is_empty() {
        paths = vec!["a folder".to_owned()];
    }
    paths.join(", ")
}

/// A look at the files that whoever is told to has to make. It ends when this is dropped, also if
/// nobody has come to it: others would leave it to who has gone.
pub struct Look(pub Arc<Profile>);

impl Look {
    /// See [`Profile::load`].
    pub fn load(&self) -> Result<Loaded> {
        self.0.load()
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.looks = false;
        state.checked = Some(Instant::now());
    }
}

impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Profile {}

impl Hash for Profile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

/// Profiles by their options.
#[derive(Debug)]
pub struct ProfileCache {
    profiles: Mutex<HashMap<ProfileOptions, Arc<Profile>>>,
    log: Arc<Log>,
}

/// More identities than a gateway has; each holds a few kilobytes of PEM and its configuration.
const MAX_PROFILES: usize = 1024;

impl ProfileCache {
    /// Without a profile. What there is to say about one goes to `log`.
    pub fn new(log: Arc<Log>) -> Self {
        let profiles = Mutex::default();
        Self { profiles, log }
    }

    /// The profile of these options.
    pub fn get(&self, options: ProfileOptions) -> Arc<Profile> {
        let mut profiles = self.lock();
        if let Some(profile) = profiles.get(&options) {
            return profile.clone();
        }
        if profiles.len() >= MAX_PROFILES {
            // Those in use stay the same object, so that connections under them stay shared.
            profiles.retain(|_, profile| Arc::strong_count(profile) > 1);
        }
        if profiles.len() >= MAX_PROFILES {
            profiles.clear();
        }
        let profile = Arc::new(Profile {
            options: options.clone(),
            log: self.log.clone(),
            state: Mutex::default(),
            loading: Mutex::default(),
            generation: AtomicU64::new(0),
        });
        profiles.insert(options, profile.clone());
        profile
    }

    /// The profiles whose files have to be looked at.
    pub fn due(&self) -> Vec<Look> {
        let profiles: Vec<_> = self.lock().values().cloned().collect();
        profiles
            .into_iter()
            .filter(|profile| profile.is_due())
            .map(Look)
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ProfileOptions, Arc<Profile>>> {
        self.profiles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
