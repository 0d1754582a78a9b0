//! The TLS handshake, and what of it is kept with the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::{Certificate, DistinguishedName};
use super::config::{Chain, Facts, Loaded};
use super::explain;
use super::identity::Identity;
use super::observe::{ClientAuth, Observation};
use super::profile::{Profile, Turn};
use crate::error::{Error, Result, Stage};
use crate::net::Endpoint;
use crate::threads;

/// One TLS session: what errors are explained with and reports are made of. It is there before the
/// handshake, so that a handshake that fails can be reported on as well.
#[derive(Debug)]
pub struct Session {
    pub(super) facts: Facts,
    pub(super) observation: Arc<Observation>,
    established: OnceLock<Established>,
}

#[derive(Debug)]
struct Established {
    version: Option<ProtocolVersion>,
    cipher: Option<&'static str>,
    alpn: Option<String>,
    resumed: bool,
    chain: Chain,
}

impl Session {
    /// A session of `loaded`, whose handshake is to come.
    pub fn new(loaded: &Loaded) -> Arc<Self> {
        Arc::new(Self {
            facts: loaded.facts.clone(),
            observation: Arc::default(),
            established: OnceLock::new(),
        })
    }

    /// Runs the handshake with `server`, which has to prove to be `server_name`, under what the session
    /// was made of.
    ///
    /// # Errors
    ///
    /// Why the server is not trusted, or why it refused.
    pub async fn handshake<IO>(
        &self,
        loaded: &Loaded,
        server: &Endpoint,
        server_name: ServerName<'static>,
        io: IO,
    ) -> Result<TlsStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(loaded.config_for(server));
        let connecting = connector.connect(server_name, io);
        let connected = self.observation.watch(connecting).await;
        let stream = connected.map_err(|error| explain::handshake(&error, self))?;
        self.note_established(loaded, server, stream.get_ref().1);
        // The server asked and rustls had to answer with an empty certificate. Going on would be a
        // request without the identity that the caller asked for.
        if self.observation.request() == Some(ClientAuth::NoCommonScheme) {
            return Err(explain::no_common_scheme(None, Stage::Tls, self));
        }
        Ok(stream)
    }

    fn note_established(
        &self,
        loaded: &Loaded,
        server: &Endpoint,
        connection: &rustls::ClientConnection,
    ) {
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain = match self.observation.take_chain() {
            // No certificates are exchanged then; rustls remembers those of the first handshake.
            chain if chain.is_empty() => {
                let chain = connection.peer_certificates().unwrap_or_default();
                chain.iter().map(|der| der.clone().into_owned()).collect()
            }
            chain => chain,
        };
        let alpn = connection.alpn_protocol();
        let suite = connection.negotiated_cipher_suite();
        // A session is established once.
        let _ = self.established.set(Established {
            version: connection.protocol_version(),
            cipher: suite.and_then(|suite| suite.suite().as_str()),
            alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
            resumed,
            chain: loaded.share_chain(server, chain),
        });
    }

    /// Notes that the session goes on, so that little of it need be kept.
    pub fn settle(&self) {
        self.observation.forget_authorities();
    }

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

/// What reports say of a session.
impl Session {
    /// Which load of its profile it is of.
    pub fn generation(&self) -> u64 {
        self.facts.generation
    }

    /// Whether the handshake is done.
    pub fn is_established(&self) -> bool {
        self.established.get().is_some()
    }

    /// Whether an earlier session was resumed, so that no certificates were exchanged.
    pub fn resumed(&self) -> bool {
        self.established
            .get()
            .is_some_and(|session| session.resumed)
    }

    /// As nginx's `$ssl_protocol` has it; also of a handshake that failed once the server had chosen.
    pub fn version(&self) -> Option<&'static str> {
        match self.established.get() {
            Some(established) => match established.version? {
                ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
                ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
                _ => None,
            },
            None => {
                let seen = self.observation.seen();
                match (seen.is_tls13, seen.chain.is_empty()) {
                    (true, _) => Some("TLSv1.3"),
                    (false, false) => Some("TLSv1.2"),
                    (false, true) => None,
                }
            }
        }
    }

    /// The cipher suite's name in IANA's registry.
    pub fn cipher(&self) -> Option<String> {
        let name = self.established.get()?.cipher?;
        // rustls calls those of TLS 1.3 by a prefix of its own.
        Some(name.replacen("TLS13_", "TLS_", 1))
    }

    /// The protocol that the server chose.
    pub fn alpn(&self) -> Option<&str> {
        self.established.get()?.alpn.as_deref()
    }

    /// The server's certificates as it sent them, whether they are trusted or not.
    pub fn chain(&self) -> Vec<Certificate> {
        let parsed = |chain: &[CertificateDer<'static>]| {
            chain
                .iter()
                .filter_map(|der| Certificate::parse(der))
                .collect()
        };
        match self.established.get() {
            Some(established) => parsed(&established.chain),
            None => parsed(&self.observation.seen().chain),
        }
    }

    /// What became of the server's request for a client certificate, if it made one.
    pub fn request(&self) -> Option<ClientAuth> {
        self.observation.request()
    }

    /// Whether the server has gone through a handshake without a request for a certificate. A
    /// resumed one has none, and stands on the certificate of the one before.
    pub fn was_not_asked(&self) -> bool {
        let established = self.established.get();
        self.request().is_none() && established.is_some_and(|session| !session.resumed)
    }

    /// The CAs that the server accepts client certificates of.
    pub fn authorities(&self) -> Vec<DistinguishedName> {
        let names = self.observation.seen().authorities;
        names
            .iter()
            .map(|der| DistinguishedName::parse(der))
            .collect()
    }

    /// The identity that is offered when the server asks for one.
    pub fn identity(&self) -> Option<&Identity> {
        self.facts.identity.as_deref()
    }
}

/// What a handshake under `profile` needs. It comes before anything is sent, so that a bad key is
/// told of whether or not the server can be reached.
///
/// # Errors
///
/// Why the profile cannot be used.
pub async fn prepare(profile: &Arc<Profile>) -> Result<Loaded> {
    profile.touch();
    if let Some(loaded) = profile.ready() {
        return Ok(loaded);
    }
    // Reading files and parsing keys takes milliseconds, in which no connection would be served.
    let mut loads = match profile.turn() {
        Turn::Wait(loads) => loads,
        Turn::Look(look, told, loads) => {
            let work = move || {
                let found = look.load();
                drop(look);
                told.send_replace(Some(found));
            };
            if let Err(error) = threads::spawn_blocking(work) {
                // Its files are looked at when there is a thread again.
                return profile.loaded().ok_or(error);
            }
            loads
        }
    };
    let found = loads.wait_for(Option::is_some).await;
    let found = found.ok().and_then(|found| found.clone());
    found.unwrap_or_else(|| Err(Error::internal("loading the TLS profile failed")))
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
            // It may be a key in the wrong place, which an error must not show.
            ServerName::try_from(bare.to_owned()).map_err(|_| {
                Error::bad_argument("bad 'ssl_server_name': neither a DNS name nor an IP address")
            })
        }
        None if verify => Err(Error::bad_argument(
            "missing 'ssl_server_name': a unix socket has no name to check the certificate for",
        )),
        None => Ok(ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
    }
}
