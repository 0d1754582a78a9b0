//! The TLS handshake, and what of it is kept with the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::explain;
use super::identity::Identity;
use super::observe::{ClientAuth, Observation};
use super::profile::{Loaded, Profile};
use crate::error::{Error, Result, Stage};

/// What later errors on an established TLS connection are explained with.
#[derive(Debug)]
pub struct Session {
    /// Whether an earlier session was resumed, so that no certificates were exchanged.
    pub resumed: bool,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) observation: Arc<Observation>,
}

impl Session {
    /// Explains an error of reading or writing, if TLS is the reason.
    ///
    /// TLS 1.3 lets a server reject the client certificate only after the client believes that it
    /// is connected (RFC 8446, 4.4.2.4 and 6.2), so that rejection arrives here.
    pub fn explain(&self, error: &io::Error, stage: Stage) -> Option<Error> {
        explain::io_error(error, stage, self)
    }

    /// Explains a connection that the server closed without a word.
    pub fn explain_closed(&self, stage: Stage) -> Error {
        explain::closed(stage, self)
    }
}

/// What a handshake under `profile` needs. It comes before anything is sent, so that a bad key is
/// told of whether or not the server can be reached.
///
/// # Errors
///
/// Why the profile cannot be used.
pub async fn prepare(profile: &Arc<Profile>) -> Result<Loaded> {
    if let Some(loaded) = profile.ready() {
        return Ok(loaded);
    }
    // Reading files and parsing keys takes milliseconds, in which no connection would be served.
    let profile = profile.clone();
    tokio::task::spawn_blocking(move || profile.load())
        .await
        .unwrap_or_else(|_| Err(Error::internal("loading the TLS profile failed")))
}

/// Runs the handshake with what was prepared; the server has to be `server_name`.
///
/// # Errors
///
/// Why the server is not trusted, or why it refused.
pub async fn handshake<IO>(
    loaded: Loaded,
    server_name: ServerName<'static>,
    io: IO,
) -> Result<(TlsStream<IO>, Session)>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let observation = Arc::new(Observation::default());
    let connecting = TlsConnector::from(loaded.config).connect(server_name, io);
    let connected = observation.watch(connecting).await;
    let mut session = Session {
        resumed: false,
        identity: loaded.identity,
        observation,
    };
    let stream = connected.map_err(|error| explain::handshake(&error, &session))?;
    session.resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    // The server asked and rustls had to answer with an empty certificate. Going on would be a
    // request without the identity that the caller asked for.
    if session.observation.seen().request == Some(ClientAuth::NoCommonScheme) {
        return Err(explain::no_common_scheme(None, Stage::Tls, &session));
    }
    Ok((stream, session))
}

/// The name that the server has to prove, from `ssl_server_name` or else the host.
///
/// Without either (a unix socket) only an unverified connection is possible; an address that is
/// no address then keeps SNI from being sent.
///
/// # Errors
///
/// A name that is neither a DNS name nor an IP address, or no name where one has to be checked.
pub fn server_name(name: Option<&str>, verify: bool) -> Result<ServerName<'static>> {
    match name {
        Some(name) => {
            let bare = crate::net::without_brackets(name);
            // A trailing dot marks a fully-qualified name and is no part of it in SNI (RFC 6066).
            let bare = bare.strip_suffix('.').unwrap_or(bare);
            ServerName::try_from(bare.to_owned()).map_err(|_| {
                Error::bad_argument(format!(
                    "bad 'ssl_server_name': {name} is neither a DNS name nor an IP address"
                ))
            })
        }
        None if verify => Err(Error::bad_argument(
            "missing 'ssl_server_name': a unix socket has no name to check the certificate for",
        )),
        None => Ok(ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
    }
}
