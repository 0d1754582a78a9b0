//! One HTTP connection and what happens on it.
//!
//! ```text
//!            connect            send              receive
//!  Closed ───────────▶ Idle ───────────▶ Idle ───────────▶ Reading ──body complete──▶ Idle
//!    ▲   pool.take ────▲                       request = both in one operation          │
//!    └───────────────────────────── close, set_keepalive (to the pool), failure ◀───────┘
//! ```
//!
//! A [`Client`] is what one `httpc` owns. Operations run as tasks of the runtime and take the
//! connection with them; the caller's thread gets it back when they are done.

mod body;
mod connect;
mod connection;
mod operations;
mod state;
mod transact;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

pub use body::Taken;
pub use connection::Connection;
pub use operations::{Client, Released};
pub use state::Until;
pub use transact::Exchange;

use crate::net::Endpoint;
use crate::pool::Pool;
use crate::tls::Profile;

/// Idle connections of this process.
pub type ConnectionPool = Pool<Arc<Destination>, Connection>;

/// Everything that has to be the same for a connection to be used again: where it leads, whom it
/// trusts, and whom it is authenticated as. The pool's key.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Address.
    pub endpoint: Endpoint,
    /// TLS, unless the scheme is http.
    pub tls: Option<TlsTarget>,
    /// Name of the caller's choice. It only ever narrows sharing.
    pub pool: Option<String>,
}

/// The TLS side of a destination.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TlsTarget {
    /// Identity, trust and policy.
    pub profile: Arc<Profile>,
    /// The name that the server has to prove; sent as SNI.
    pub server_name: ServerName<'static>,
}

impl Destination {
    /// The default `Host` header: the port only if it is not the scheme's (RFC 9110, 7.2).
    pub fn host_header(&self) -> Option<String> {
        let Endpoint::Tcp(host, port) = &self.endpoint else {
            return None;
        };
        // A bare IPv6 address gets the brackets that a URI's host has.
        let host = match host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{}]", IpAddr::V6(address)),
            Err(_) => host.clone(),
        };
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        Some(match *port {
            port if port == default_port => host,
            port => format!("{host}:{port}"),
        })
    }
}

/// Time-outs of the steps of a request.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For name and TCP together, and once more for the TLS handshake.
    pub connect: Duration,
    /// Between two moments at which the server takes bytes of the request.
    pub send: Duration,
    /// For the whole response head; then between two moments at which bytes of the body come.
    pub read: Duration,
}
