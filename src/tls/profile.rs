//! TLS profile: what decides whether two connections are interchangeable.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

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
    /// The minute in which a connection was last opened or seen.
    used: AtomicU64,
    /// Minutes that have passed, as the cache counts them.
    clock: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct State {
    loaded: Option<Loaded>,
    /// Whether it has been and is not any more, since nobody used it.
    was_unloaded: bool,
    /// The files that it was loaded from.
    files: Vec<FileState>,
    /// When they were last looked at.
    checked: Option<Instant>,
    /// Files that could not be used, which has been complained of, and when to try them again.
    refused: Option<(Vec<FileState>, Instant)>,
    /// Whether somebody looks at them now: on a file system that hangs, one of us is enough.
    looks: bool,
    /// What comes of it, for who cannot go on without.
    loads: Option<Loads>,
}

/// What comes of a look.
pub type Loads = watch::Receiver<Option<Result<Loaded>>>;

/// What somebody has to do who needs a profile that is not ready.
pub enum Turn {
    /// To look, to tell what came of it, and to wait for that.
    Look(Look, watch::Sender<Option<Result<Loaded>>>, Loads),
    /// To wait for somebody else, who looks.
    Wait(Loads),
}

/// What could not be used may be usable now though no file has changed.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// Files are looked at no more often. The sweeper of the pool comes as often.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Minutes for which what nobody uses is kept. Longer than most connections are idle, and shorter than
/// somebody who has taken a route away would wait before a look at what the worker still has.
const KEPT_MINUTES: u64 = 5;

impl Profile {
    /// Notes that a connection is to be opened. Those that are open are seen by themselves.
    pub fn touch(&self) {
        let now = self.clock.load(Ordering::Relaxed);
        self.used.store(now, Ordering::Relaxed);
    }

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

    /// Who looks where [`Profile::ready`] has nothing. Each look takes a helper thread, of which there
    /// are few.
    pub fn turn(self: &Arc<Self>) -> Turn {
        let mut state = self.lock();
        if let (Some(loads), None) = (&state.loads, &state.loaded) {
            return Turn::Wait(loads.clone());
        }
        let (told, loads) = watch::channel(None);
        state.loads = Some(loads.clone());
        Turn::Look(Look(self.clone()), told, loads)
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
                // What was unloaded and comes back the same is not another one: connections under it
                // that have outlived it are as good as new ones.
                let is_back = state.was_unloaded && state.files == files;
                let step = if is_back { 0 } else { 1 };
                let generation = self.generation.fetch_add(step, Ordering::AcqRel) + step;
                let loaded = loaded.with_generation(generation);
                state.loaded = Some(loaded.clone());
                state.was_unloaded = false;
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

    /// Lets go of keys, tickets and trust anchors if no connection has been opened for some minutes and
    /// none is open. False while there is something to let go of.
    ///
    /// What was read before its files became unusable cannot be read again: it stays for as long as
    /// Lua knows the profile.
    fn unload_unused(&self, is_known: bool) -> bool {
        let mut state = self.lock();
        if is_known && state.refused.is_some() {
            return false;
        }
        let is_in_use = state.looks || state.loaded.as_ref().is_some_and(Loaded::is_in_use);
        if is_in_use {
            self.touch();
        }
        let used = self.used.load(Ordering::Relaxed);
        if self.clock.load(Ordering::Relaxed).saturating_sub(used) < KEPT_MINUTES {
            return false;
        }
        state.was_unloaded |= state.loaded.take().is_some();
        true
    }

    /// Whether it has a key in memory.
    fn has_key(&self) -> bool {
        let state = self.lock();
        let loaded = state.loaded.as_ref();
        loaded.is_some_and(|loaded| loaded.facts.identity.is_some())
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
        state.loads = None;
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
    clock: Arc<AtomicU64>,
}

/// More identities than a gateway has; each holds a few kilobytes of PEM and its configuration.
const MAX_PROFILES: usize = 1024;

impl ProfileCache {
    /// Without a profile. What there is to say about one goes to `log`.
    pub fn new(log: Arc<Log>) -> Self {
        Self {
            profiles: Mutex::default(),
            log,
            clock: Arc::default(),
        }
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
            used: AtomicU64::new(self.clock.load(Ordering::Relaxed)),
            clock: self.clock.clone(),
        });
        profiles.insert(options, profile.clone());
        profile
    }

    /// Drops what nobody has used for some minutes: a route that was taken away leaves no key behind.
    pub fn minute_passes(&self) {
        self.clock.fetch_add(1, Ordering::Relaxed);
        // Those that Lua still knows stay the same object, though there is nothing in it.
        self.lock().retain(|_, profile| {
            let is_known = Arc::strong_count(profile) > 1;
            !profile.unload_unused(is_known) || is_known
        });
    }

    /// How many private keys it has in memory.
    pub fn keys(&self) -> u64 {
        let profiles = self.lock();
        profiles
            .values()
            .filter(|profile| profile.has_key())
            .count() as u64
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::{IdentityFiles, IdentitySource, Pins, Protocols, Source, Version, prepare};
    use super::*;
    use crate::threads;

    fn options() -> ProfileOptions {
        ProfileOptions {
            identity: None,
            trust: Vec::new(),
            revocation: None,
            verify: false,
            pins: Pins::default(),
            min_version: Version::Tls12,
            max_version: Version::Tls13,
            resume: true,
            allow_keylog: false,
            protocols: Protocols::Http1,
        }
    }

    fn cache() -> ProfileCache {
        ProfileCache::new(Arc::default())
    }

    fn pass(cache: &ProfileCache, minutes: u64) {
        (0..minutes).for_each(|_| cache.minute_passes());
    }

    fn is_loaded(profile: &Profile) -> bool {
        profile.lock().loaded.is_some()
    }

    #[test]
    fn what_nobody_uses_is_dropped_after_some_minutes() {
        let cache = cache();
        cache.get(options()).load().unwrap();
        pass(&cache, KEPT_MINUTES - 1);
        assert!(is_loaded(&cache.get(options())));
        pass(&cache, 1);
        assert!(cache.lock().is_empty());
    }

    #[test]
    fn what_lua_knows_stays_the_same_object_with_nothing_in_it() {
        let cache = cache();
        let known = cache.get(options());
        let generation = known.load().unwrap().facts.generation;
        pass(&cache, 2 * KEPT_MINUTES);
        assert!(!is_loaded(&known));
        assert_eq!(cache.get(options()), known);
        assert_eq!(known.load().unwrap().facts.generation, generation);
        assert_eq!(known.generation(), generation);
    }

    #[test]
    fn what_has_a_connection_is_kept_and_then_for_some_minutes() {
        let cache = cache();
        let known = cache.get(options());
        let in_use = known.load().unwrap().in_use();
        pass(&cache, 100);
        assert!(is_loaded(&known));
        drop(in_use);
        pass(&cache, KEPT_MINUTES - 1);
        assert!(is_loaded(&known));
        pass(&cache, 1);
        assert!(!is_loaded(&known));
    }

    #[test]
    fn all_who_wait_for_a_file_that_hangs_take_one_thread() {
        let folder = std::env::temp_dir().join(format!("resty-mtls-test-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let fifo = folder.join("fifo");
        assert!(
            Command::new("mkfifo")
                .arg(&fifo)
                .status()
                .unwrap()
                .success()
        );
        let profile = cache().get(ProfileOptions {
            identity: Some(IdentitySource {
                files: IdentityFiles::Pem {
                    certificate: Source::Path("ssl_cert_path", fifo.clone()),
                    key: Source::Given("ssl_key", b"none"[..].into()),
                },
                passphrase: None,
            }),
            ..options()
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let load = |profile: Arc<Profile>| async move { prepare(&profile).await.err() };
            let waiting: Vec<_> = (0..5)
                .map(|_| tokio::spawn(load(profile.clone())))
                .collect();
            tokio::task::yield_now().await;
            let write = move || std::fs::write(&fifo, "no certificate");
            let writing = threads::spawn_blocking(write).unwrap();
            let written = tokio::time::timeout(Duration::from_secs(20), writing).await;
            written.unwrap().unwrap().unwrap();
            for one in waiting {
                assert!(one.await.unwrap().is_some());
            }
        });
        assert!(profile.lock().loads.is_none());
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_read_again_is_kept_while_lua_knows_it() {
        let cache = cache();
        let known = cache.get(options());
        known.load().unwrap();
        known.lock().refused = Some((Vec::new(), Instant::now()));
        pass(&cache, 100);
        assert!(is_loaded(&known));
        drop(known);
        pass(&cache, 1);
        assert!(cache.lock().is_empty());
    }

    #[test]
    fn connecting_keeps_it() {
        let cache = cache();
        let known = cache.get(options());
        known.load().unwrap();
        for _ in 0..100 {
            pass(&cache, KEPT_MINUTES - 1);
            known.touch();
        }
        assert!(is_loaded(&known));
    }
}
