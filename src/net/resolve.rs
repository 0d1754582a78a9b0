//! Host names to addresses, with getaddrinfo.

use std::net::{IpAddr, SocketAddr};

use crate::error::{Cause, Error, Result, Stage};

/// The addresses of `host`, in the order to try them.
///
/// # Errors
///
/// The host has no address, or the resolver of the system says why not.
pub async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    // `[::1]` is how a URI spells an IPv6 address (RFC 3986, 3.2.2).
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |reason: String| {
        let host = host.to_owned();
        Error::new(Stage::Resolve, Cause::DnsFailed { host, reason })
    };
    let addresses: Vec<_> = tokio::net::lookup_host((bare, port))
        .await
        .map_err(|error| failed(error.to_string()))?
        .collect();
    match addresses.is_empty() {
        true => Err(failed("the name has no address".to_owned())),
        false => Ok(addresses),
    }
}
