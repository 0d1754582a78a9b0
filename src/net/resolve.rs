//! Host names to addresses: given by the caller's resolver, or else from getaddrinfo.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::{Cause, Error, Result, Stage, is_exhaustion};
use crate::threads;

/// The addresses of a name, or what the literal address says.
pub fn literal(host: &str) -> Option<IpAddr> {
    // `[::1]` is how a URI spells an IPv6 address (RFC 3986, 3.2.2).
    without_brackets(host).parse().ok()
}

/// A host without the brackets of an IPv6 address in a URI.
pub fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

/// Whether `host` is an address in `network` (`10.0.0.0/8`, `fd00::/8`). A name never is.
pub fn in_network(host: &str, network: &str) -> bool {
    let Some((base, length)) = network.split_once('/') else {
        return false;
    };
    let (Some(address), Some(base), Ok(length)) =
        (literal(host), literal(base), length.parse::<u32>())
    else {
        return false;
    };
    let same_prefix = |a: u128, b: u128, bits: u32| {
        length <= bits && (length == 0 || (a ^ b) >> (bits - length) == 0)
    };
    match (address, base) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same_prefix(u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same_prefix(a.into(), b.into(), 128),
        _ => false,
    }
}

/// Looks names up with getaddrinfo and remembers the answers for a short time: it has no cache of
/// its own, and a burst of connections would ask the name server once for each.
///
/// All who want to know a name at the same time wait for one look-up, so that a name whose server
/// hangs does not take the places of others.
#[derive(Debug)]
pub struct Resolver {
    names: Mutex<Names>,
    lookups: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            names: Mutex::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

#[derive(Debug, Default)]
struct Names {
    answers: HashMap<String, Answer>,
    /// What is being looked up now, and who is told.
    questions: HashMap<String, Arc<Told>>,
}

#[derive(Debug)]
struct Answer {
    addresses: Vec<IpAddr>,
    since: Instant,
    /// When whoever asked would ask again; others may do so earlier or later.
    expires: Instant,
}

type Found = Result<Vec<IpAddr>>;

type Told = watch::Sender<Option<Found>>;

/// Lookups at a time. Those that hang keep their place, so that a dead name server fills neither
/// the queue of blocking work nor the threads that load TLS profiles.
const MAX_LOOKUPS: usize = 8;

/// Without an answer for so long, a name is looked up once more beside it: the question may have been
/// lost, and the system asks again after 5 s.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Names remembered at a time; a gateway calls fewer services.
const MAX_NAMES: usize = 1024;

impl Resolver {
    /// The addresses of `host`, in the order to try them. An answer is used again for
    /// `remember`.
    ///
    /// # Errors
    ///
    /// The host has no address, or the resolver of the system says why not.
    pub async fn resolve(&'static self, host: &str, remember: Duration) -> Found {
        if let Some(address) = literal(host) {
            return Ok(vec![address]);
        }
        let mut told = {
            let mut names = self.lock();
            if let Some(addresses) = names.remembered(host, remember) {
                return Ok(addresses);
            }
            match names.questions.get(host) {
                Some(told) => told.subscribe(),
                None => {
                    let (sender, told) = watch::channel(None);
                    let sender = Arc::new(sender);
                    names.questions.insert(host.to_owned(), sender.clone());
                    let question = Question {
                        resolver: self,
                        host: host.to_owned(),
                        told: sender,
                    };
                    tokio::spawn(question.ask(remember));
                    told
                }
            }
        };
        let found = told.wait_for(Option::is_some).await;
        let found = found.ok().and_then(|found| found.clone());
        found.unwrap_or_else(|| Err(failed(host, "the look-up was given up".to_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Names {
    fn remembered(&self, host: &str, time: Duration) -> Option<Vec<IpAddr>> {
        let answer = self.answers.get(host)?;
        (answer.since.elapsed() < time).then(|| answer.addresses.clone())
    }

    fn remember(&mut self, host: &str, addresses: &[IpAddr], time: Duration) {
        let now = Instant::now();
        let Some(expires) = now.checked_add(time) else {
            return;
        };
        let answers = &mut self.answers;
        if answers.len() >= MAX_NAMES {
            answers.retain(|_, answer| answer.expires > now);
        }
        if time.is_zero() || answers.len() >= MAX_NAMES {
            answers.remove(host);
            return;
        }
        let answer = Answer {
            addresses: addresses.to_vec(),
            since: now,
            expires,
        };
        answers.insert(host.to_owned(), answer);
    }
}

/// A name that is being looked up, for all who want to know it.
struct Question {
    resolver: &'static Resolver,
    host: String,
    told: Arc<Told>,
}

impl Question {
    async fn ask(self, remember: Duration) {
        let Some(place) = self.place().await else {
            return;
        };
        let found = self.answer(place).await;
        let mut names = self.resolver.lock();
        if let Ok(addresses) = &found {
            names.remember(&self.host, addresses, remember);
        }
        names.questions.remove(&self.host);
        drop(names);
        self.told.send_replace(Some(found));
    }

    /// A place among the look-ups; none if all who wanted to know have gone before there is one.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.resolver.lookups.clone().acquire_owned();
        tokio::pin!(place);
        loop {
            tokio::select! {
                place = &mut place => return place.ok(),
                () = self.told.closed() => {
                    let mut names = self.resolver.lock();
                    // Nobody comes meanwhile: whoever does needs the lock.
                    if self.told.receiver_count() == 0 {
                        names.questions.remove(&self.host);
                        return None;
                    }
                }
            }
        }
    }

    /// The first answer, be it that of a second look-up. That is for when there is room: half of the
    /// places are for other names.
    async fn answer(&self, place: OwnedSemaphorePermit) -> Found {
        let lookups = &self.resolver.lookups;
        let first = look_up(&self.host, place);
        tokio::pin!(first);
        if let Ok(found) = tokio::time::timeout(ASK_AGAIN, &mut first).await {
            return found;
        }
        if lookups.available_permits() <= MAX_LOOKUPS / 2 {
            return first.await;
        }
        let Ok(place) = lookups.clone().try_acquire_owned() else {
            return first.await;
        };
        either(first, look_up(&self.host, place)).await
    }
}

impl Drop for Question {
    /// However it ends, nobody is left to wait for it.
    fn drop(&mut self) {
        let mut names = self.resolver.lock();
        let is_ours = |told: &Arc<Told>| Arc::ptr_eq(told, &self.told);
        if names.questions.get(&self.host).is_some_and(is_ours) {
            names.questions.remove(&self.host);
        }
    }
}

/// What comes first of both, unless it is a failure of the second look-up: that may be for want of a
/// file descriptor or a thread, which the first one has.
async fn either(first: impl Future<Output = Found>, second: impl Future<Output = Found>) -> Found {
    tokio::pin!(first);
    tokio::select! {
        found = &mut first => found,
        found = second => match found {
            Ok(found) => Ok(found),
            Err(_) => first.await,
        },
    }
}

/// Asks the system, which blocks a thread. `place` is given up when it has answered.
async fn look_up(host: &str, place: OwnedSemaphorePermit) -> Found {
    let name = without_brackets(host).to_owned();
    let looking_up = threads::spawn_blocking(move || {
        let found = (name.as_str(), 0).to_socket_addrs();
        drop(place);
        // Without a file descriptor, getaddrinfo says that there is no such name.
        found.map_err(|error| exhaustion().unwrap_or(error))
    })?;
    let found = looking_up.await;
    let found = found.map_err(|error| failed(host, error.to_string()))?;
    let mut addresses = Vec::new();
    for address in found.map_err(|error| failed(host, error.to_string()))? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    match addresses.is_empty() {
        true => Err(failed(host, "the name has no address".to_owned())),
        false => Ok(addresses),
    }
}

fn failed(host: &str, reason: String) -> Error {
    let host = host.to_owned();
    Error::new(Stage::Resolve, Cause::DnsFailed { host, reason })
}

fn exhaustion() -> Option<io::Error> {
    std::fs::File::open("/dev/null").err().filter(is_exhaustion)
}

/// An address with its port.
pub fn with_port(addresses: &[IpAddr], port: u16) -> impl Iterator<Item = SocketAddr> {
    addresses
        .iter()
        .map(move |&address| SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_their_addresses() {
        for (host, network, expected) in [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.1.2.3", "10.1.2.3/32", true),
            ("10.1.2.4", "10.1.2.3/32", false),
            ("10.1.2.4", "0.0.0.0/0", true),
            ("10.1.2.4", "10.1.2.4/33", false),
            ("fd00::1", "fd00::/8", true),
            ("[fe80::1]", "fe80::/10", true),
            ("::1", "0.0.0.0/0", false),
            ("::1", "::/0", true),
            ("name", "0.0.0.0/0", false),
            ("10.1.2.3", "10.0.0.0", false),
            ("10.1.2.3", "10.0.0.0/x", false),
        ] {
            assert_eq!(in_network(host, network), expected, "{host} in {network}");
        }
    }

    #[tokio::test]
    async fn a_second_look_up_that_fails_is_not_waited_for_and_takes_nothing_away() {
        let good = || Ok(vec![IpAddr::from([127, 0, 0, 1])]);
        let bad = |what: &str| Err(failed("up.test", what.to_owned()));
        let later = |found: Found| async {
            tokio::task::yield_now().await;
            found
        };
        let now = std::future::ready;
        assert_eq!(either(later(good()), now(bad("second"))).await, good());
        assert_eq!(
            either(later(bad("first")), now(bad("second"))).await,
            bad("first")
        );
        assert_eq!(either(later(bad("first")), now(good())).await, good());
        assert_eq!(either(now(bad("first")), later(good())).await, bad("first"));
        let never = std::future::pending::<Found>;
        assert_eq!(either(never(), later(good())).await, good());
        assert_eq!(either(later(good()), never()).await, good());
    }

    #[tokio::test]
    async fn who_waits_for_a_place_is_forgotten_when_gone() {
        let resolver: &Resolver = Box::leak(Box::default());
        let places = resolver.lookups.acquire_many(8).await;
        let waiting = |host: String| async move {
            let asked = resolver.resolve(&host, Duration::ZERO);
            tokio::time::timeout(Duration::from_millis(10), asked).await
        };
        let several: Vec<_> = (0..20)
            .map(|number| tokio::spawn(waiting(format!("hang-{}.invalid", number % 10))))
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(resolver.lock().questions.len(), 10);
        for one in several {
            assert!(one.await.is_ok_and(|outcome| outcome.is_err()));
        }
        while !resolver.lock().questions.is_empty() {
            tokio::task::yield_now().await;
        }
        drop(places);
        assert_eq!(resolver.lookups.available_permits(), MAX_LOOKUPS);
    }
}
