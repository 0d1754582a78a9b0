//! Host names to addresses: given by the caller's resolver, or else from getaddrinfo.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

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
#[derive(Debug)]
pub struct Resolver {
    answers: Mutex<HashMap<String, Answer>>,
    lookups: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            answers: Mutex::default(),
            lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)),
        }
    }
}

#[derive(Debug)]
struct Answer {
    addresses: Vec<IpAddr>,
    expires: Instant,
}

/// Lookups at a time. Those that hang keep their place, so that a dead name server fills neither
/// the queue of blocking work nor the threads that load TLS profiles.
const MAX_LOOKUPS: usize = 8;

/// Names remembered at a time; a gateway calls fewer services.
const MAX_NAMES: usize = 1024;

impl Resolver {
    /// The addresses of `host`, in the order to try them. An answer is used again for
    /// `remember`.
    ///
    /// # Errors
    ///
    /// The host has no address, or the resolver of the system says why not.
    pub async fn resolve(&self, host: &str, remember: Duration) -> Result<Vec<IpAddr>> {
        if let Some(address) = literal(host) {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.remembered(host) {
            return Ok(addresses);
        }
        let failed = |reason: String| {
            let host = host.to_owned();
            Error::new(Stage::Resolve, Cause::DnsFailed { host, reason })
        };
        let place = self.lookups.clone().acquire_owned().await;
        // Others may have waited for the same name.
        if let Some(addresses) = self.remembered(host) {
            return Ok(addresses);
        }
        let name = without_brackets(host).to_owned();
        let looking_up = threads::spawn_blocking(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            drop(place);
            // Without a file descriptor, getaddrinfo says that there is no such name.
            found.map_err(|error| exhaustion().unwrap_or(error))
        })?;
        let found = looking_up
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut addresses = Vec::new();
        for address in found.map_err(|error| failed(error.to_string()))? {
            if !addresses.contains(&address.ip()) {
                addresses.push(address.ip());
            }
        }
        if addresses.is_empty() {
            return Err(failed("the name has no address".to_owned()));
        }
        self.remember(host, &addresses, remember);
        Ok(addresses)
    }

    fn remembered(&self, host: &str) -> Option<Vec<IpAddr>> {
        let answers = self.lock();
        let answer = answers.get(host)?;
        (answer.expires > Instant::now()).then(|| answer.addresses.clone())
    }

    fn remember(&self, host: &str, addresses: &[IpAddr], time: Duration) {
        let now = Instant::now();
        let Some(expires) = now.checked_add(time) else {
            return;
        };
        let mut answers = self.lock();
        if answers.len() >= MAX_NAMES {
            answers.retain(|_, answer| answer.expires > now);
        }
        if time.is_zero() || answers.len() >= MAX_NAMES {
            answers.remove(host);
            return;
        }
        let addresses = addresses.to_vec();
        answers.insert(host.to_owned(), Answer { addresses, expires });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
