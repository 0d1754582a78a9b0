//! One HTTP connection and what happens on it.
//!
//! ```text
//!            connect            send              receive
//!  Closed ───────────▶ Idle ───────────▶ Idle ───────────▶ Reading ──body complete──▶ Idle
//!    ▲   pool.take ────▲                       request = both in one operation          │
//!    └───────────────────────────── close, set_keepalive (to the pool), failure ◀───────┘
//! ```
//!
//! After a read time-out it is given up: there is none, but the caller may still close it.
//!
//! With HTTP/2 the connection is one of many clients, and each has a place on it (`lease.rs`). The
//! states are the same.
//!
//! A [`Client`] is what one `httpc` owns. Operations run as tasks of the runtime and take the
//! connection with them; the caller's thread gets it back when they are done.

mod answer;
mod body;
mod connect;
#[expect(unsafe_code, reason = "reads into the spare room of a buffer")]
mod connection;
mod gate;
mod keeping;
mod lease;
mod link;
mod meter;
mod operations;
mod outcomes;
mod reading;
mod sharing;
mod state;
mod streams;
mod trace;
mod transact;
mod tunnel;
mod upload;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

pub use body::Taken;
pub use connect::{GateOptions, Route};
pub use connection::Connection;
pub use gate::Gates;
pub use keeping::{Client, Released};
pub use sharing::Sharing;
pub use state::{Attempt, Summary, Until};
pub use streams::Request;
pub use trace::{Timing, Trace};
pub use transact::{Exchange, Message};

use crate::net::Endpoint;
use crate::pool::Pool;
use crate::tls::{Profile, Protocols};

/// Idle connections of this process.
pub type ConnectionPool = Pool<Arc<Destination>, Box<Connection>>;

/// Everything that has to be the same for a connection to be used again: where it leads, whom it
/// trusts, and whom it is authenticated as. The pool's key.
#[derive(Debug, PartialEq, Eq)]
pub struct Destination {
    /// Address.
    pub endpoint: Endpoint,
    /// TLS, unless the scheme is http.
    pub tls: Option<TlsTarget>,
    /// The proxy in between. Few have one, so that it is elsewhere.
    pub proxy: Option<Box<Proxy>>,
    /// The versions of HTTP to speak there.
    pub protocols: Protocols,
    /// Name of the caller's choice. It only ever narrows sharing.
    pub pool: Option<String>,
}

/// Which load of the profiles on the way a connection was opened under: of the destination's, and of
/// the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation(u64, u64);

impl Generation {
    /// Of no load at all: a connection that is not what its destination says is never used again.
    pub const NEVER: Self = Self(u64::MAX, u64::MAX);
}

/// The TLS side of a destination.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsTarget {
    /// Identity, trust and policy.
    pub profile: Arc<Profile>,
    /// The name that the server has to prove; sent as SNI.
    pub server_name: ServerName<'static>,
}

/// An HTTP proxy between us and the destination.
#[derive(PartialEq, Eq)]
pub struct Proxy {
    /// Its address.
    pub endpoint: Endpoint,
    /// TLS to the proxy itself. It never has the client identity, which is for the destination.
    pub tls: Option<TlsTarget>,
    /// Value of `Proxy-Authorization`.
    pub authorization: Option<Vec<u8>>,
    /// Whether it passes bytes on (CONNECT), or requests in absolute form.
    pub tunnels: bool,
}

impl fmt::Debug for Proxy {
    /// Never shows the credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("endpoint", &self.endpoint)
            .field("tls", &self.tls)
            .field("tunnels", &self.tunnels)
            .finish_non_exhaustive()
    }
}

/// Of what tells most destinations apart: it is on the way of every request. All else is compared.
impl Hash for Destination {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.endpoint.hash(state);
        self.pool.hash(state);
        if let Some(tls) = &self.tls {
            tls.profile.hash(state);
        }
    }
}

impl Destination {
    /// Changes when an identity or trust that leads there is loaded anew.
    pub fn generation(&self) -> Generation {
        let generation =
            |tls: Option<&TlsTarget>| tls.map_or(0, |target| target.profile.generation());
        let proxy = self.proxy.as_ref().and_then(|proxy| proxy.tls.as_ref());
        Generation(generation(self.tls.as_ref()), generation(proxy))
    }

    /// The name under which it is counted. It says whom it leads to, not as whom or through what.
    pub fn name(&self) -> String {
        name(self.tls.is_some(), &self.endpoint)
    }

    /// What a request line has in front of its path: for a proxy that passes requests on, the
    /// target is in absolute form (RFC 9112, 3.2.2).
    pub fn path_prefix(&self) -> Option<String> {
        match (&self.proxy, &self.endpoint) {
            (Some(proxy), Endpoint::Tcp(host, port)) if !proxy.tunnels => Some(match port {
                80 => format!("http://{}", bracketed(host)),
                port => format!("http://{}", authority(host, *port)),
            }),
            _ => None,
        }
    }

    /// `Proxy-Authorization` for requests: only where the proxy reads them.
    pub fn proxy_authorization(&self) -> Option<&[u8]> {
        let proxy = self.proxy.as_ref().filter(|proxy| !proxy.tunnels)?;
        proxy.authorization.as_deref()
    }

    /// The default `Host` header: the port only if it is not the scheme's (RFC 9110, 7.2).
    pub fn host_header(&self) -> Option<String> {
        let Endpoint::Tcp(host, port) = &self.endpoint else {
            return None;
        };
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        Some(match *port {
            port if port == default_port => bracketed(host),
            port => authority(host, port),
        })
    }
}

/// `https://host:port`, `http://unix:/path`.
pub fn name(is_tls: bool, endpoint: &Endpoint) -> String {
    let scheme = if is_tls { "https" } else { "http" };
    match endpoint {
        Endpoint::Tcp(host, port) => format!("{scheme}://{}", authority(host, *port)),
        Endpoint::Unix(path) => format!("{scheme}://unix:{}", path.display()),
    }
}

/// `host:port` (RFC 3986, 3.2).
fn authority(host: &str, port: u16) -> String {
    format!("{}:{port}", bracketed(host))
}

/// A bare IPv6 address gets the brackets that a URI's host has.
fn bracketed(host: &str) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{}]", IpAddr::V6(address)),
        Err(_) => host.to_owned(),
    }
}

/// Time-outs of the steps of a request, and the moment at which all of it has to be done.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For name and TCP together, once more for a proxy's tunnel, and for the TLS handshake.
    pub connect: Duration,
    /// Between two moments at which the server takes bytes of the request.
    pub send: Duration,
    /// For the whole response head; then between two moments at which bytes of the body come.
    pub read: Duration,
    /// Cuts every other one short.
    pub deadline: Option<Instant>,
}

impl Timeouts {
    /// Time for one step of connecting, from now.
    pub fn connect(&self) -> Duration {
        self.cut(self.connect)
    }

    /// Time for one step of sending, from now.
    pub fn send(&self) -> Duration {
        self.cut(self.send)
    }

    /// Time for one step of reading, from now.
    pub fn read(&self) -> Duration {
        self.cut(self.read)
    }

    /// Whether the moment at which everything has to be done has passed.
    pub fn are_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    fn cut(&self, time: Duration) -> Duration {
        match self.deadline {
            Some(deadline) => time.min(deadline.saturating_duration_since(Instant::now())),
            None => time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::{IdentityFiles, IdentitySource, Passphrase, Source};

    #[test]
    fn debug_output_of_what_has_secrets_has_none() {
        let given = |option| Source::Given(option, b"a secret in a text"[..].into());
        let files = IdentityFiles::Pem {
            certificate: given("ssl_cert"),
            key: given("ssl_key"),
        };
        let identity = IdentitySource {
            files,
            passphrase: Some(Passphrase("a secret passphrase".into())),
        };
        let proxy = Proxy {
            endpoint: Endpoint::Tcp("proxy".to_owned(), 3128),
            tls: None,
            authorization: Some(b"a secret".to_vec()),
            tunnels: true,
        };
        let shown = format!("{identity:?} {proxy:?}");
        assert!(shown.contains("ssl_key") && shown.contains("3128"));
        assert!(!shown.contains("secret") && !shown.contains("97, 32, 115"));
    }
}
