//! From the options of a profile to rustls' configuration.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme, SupportedProtocolVersion};

use super::identity::Identity;
use super::keylog::KeyLog;
use super::observe::{self, ClientAuth};
use super::pin::Pins;
use super::source::FileState;
use super::trust::{self, Trust};
use super::verify::{Judge, ServerVerifier};
use super::{IdentitySource, Source, TrustSource};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::net::Endpoint;

/// What the caller's options say about TLS, apart from the server's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProfileOptions {
    /// The client identity to offer.
    pub identity: Option<IdentitySource>,
    /// Which CAs may vouch for the server.
    pub trust: Vec<TrustSource>,
    /// What these CAs have revoked.
    pub revocation: Option<Source>,
    /// Whether the server's certificate is judged at all.
    pub verify: bool,
    /// The keys that the server may have.
    pub pins: Pins,
    /// The oldest version to speak.
    pub min_version: Version,
    /// The newest one.
    pub max_version: Version,
    /// Whether sessions are resumed.
    pub resume: bool,
    /// Whether secrets may be written to the key log.
    pub allow_keylog: bool,
    /// The protocols that the server may choose from.
    pub protocols: Protocols,
}

/// The versions of HTTP that are offered to a server (ALPN, RFC 7301).
///
/// One is always offered, so that nobody's TLS connection to another kind of server on the same
/// address can be passed off as ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocols {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
    /// Whichever the server prefers.
    Either,
}

impl Protocols {
    /// The name of HTTP/2 (RFC 9113, 3.1).
    pub const H2: &str = "h2";
    const HTTP_1_1: &str = "http/1.1";

    fn names(self) -> Vec<Vec<u8>> {
        let names: &[&str] = match self {
            Self::Http1 => &[Self::HTTP_1_1],
            Self::Http2 => &[Self::H2],
            Self::Either => &[Self::H2, Self::HTTP_1_1],
        };
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 5246
    Tls12,
    /// RFC 8446
    Tls13,
}

/// What a handshake under a profile needs.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, without session tickets.
    config: Arc<ClientConfig>,
    /// The same for each server, with the tickets that it gave.
    servers: Arc<Mutex<HashMap<Endpoint, Tickets>>>,
    /// The certificates that each server sent last.
    chains: Arc<Mutex<HashMap<Endpoint, Chain>>>,
    resume: bool,
    /// What is known of it.
    pub facts: Facts,
}

/// Held by whoever has a connection under a configuration, which may not be unloaded meanwhile.
#[derive(Debug, Clone)]
pub struct InUse {
    _servers: Arc<Mutex<HashMap<Endpoint, Tickets>>>,
}

/// What errors are explained with and reports are made of. It has no key, and no ticket: the session
/// that is reported on may have ended.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The identity that is offered.
    pub identity: Option<Arc<Identity>>,
    /// Whom it trusts; `None` if the server's certificate is not judged.
    pub trust: Option<Arc<Trust>>,
    /// The protocols that it offers.
    pub protocols: Protocols,
    /// The option that keeps it from speaking both versions, if one does.
    pub version_option: Option<&'static str>,
    /// Counts how often the profile has been loaded.
    pub generation: u64,
}

/// A configuration, and since when it collects tickets.
#[derive(Debug)]
struct Tickets(Arc<ClientConfig>, Instant);

/// The certificates of a server, as it sent them.
pub type Chain = Arc<[CertificateDer<'static>]>;

/// A resumed session brings new tickets and no certificate: without an end to it, a server whose
/// certificate has expired would stay trusted for as long as it is talked to.
const RESUME_FOR: Duration = Duration::from_secs(3600);

/// Servers whose tickets are kept for each profile. Beyond, all are forgotten: full handshakes
/// follow.
const MAX_SERVERS: usize = 256;

/// Tickets of a server, in rustls' unit: eight for each server name, and some names.
const TICKETS_OF_A_SERVER: usize = 32;

/// Makes the configuration of a profile. Reads files and parses keys: not for the event loop.
///
/// # Errors
///
/// What is wrong with the identity, the trust anchors or the revocation lists.
pub fn load(options: &ProfileOptions, log: &Log) -> Result<Loaded> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&options.versions())
        .map_err(|error| Error::internal(error.to_string()))?;
    let trust = match options.verify {
        true => Some(Trust::load(&options.trust)?),
        false => None,
    };
    let judge = match &trust {
        Some(trust) => Some(Judge {
            trust: trust.clone(),
            webpki: webpki(options, trust, provider.clone())?,
        }),
        None => None,
    };
    let verifier = ServerVerifier {
        judge,
        pins: options.pins.clone(),
        provider,
    };
    let (identity, certified) = match &options.identity {
        Some(source) => {
            let (identity, certified) = source.load()?;
            (Some(Arc::new(identity)), Some(certified))
        }
        None => (None, None),
    };
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(IdentityResolver(certified)));
    config.alpn_protocols = options.protocols.names();
    config.resumption = Resumption::disabled();
    config.key_log = KeyLog::new(options.allow_keylog, log);
    Ok(Loaded {
        config: Arc::new(config),
        servers: Arc::default(),
        chains: Arc::default(),
        // What a resumed session skips is the look at the lists.
        resume: options.resume && options.revocation.is_none(),
        facts: Facts {
            identity,
            trust,
            protocols: options.protocols,
            version_option: match (options.min_version, options.max_version) {
                (Version::Tls13, _) => Some("ssl_min_version"),
                (_, Version::Tls12) => Some("ssl_max_version"),
                _ => None,
            },
            generation: 0,
        },
    })
}

/// `None` if there are no CAs to trust, but servers' own certificates.
fn webpki(
    options: &ProfileOptions,
    trust: &Trust,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>> {
    let lists = match &options.revocation {
        Some(source) => trust::revocation_lists(source)?,
        None => Vec::new(),
    };
    if trust.roots.is_empty() {
        return Ok(None);
    }
    let mut builder = WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), provider);
    if !lists.is_empty() {
        // Every CA of the chain has to say that what it issued is good, and to say so by now: a list
        // that is withheld or out of date must not be a way around it (RFC 5280, 6.3.3).
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    builder
        .build()
        .map(Some)
        .map_err(|error| match &options.revocation {
            Some(source) => trust::bad_crl(source, error.to_string()),
            None => Error::internal(error.to_string()),
        })
}

impl Loaded {
    /// The configuration for a server, with its session tickets. Tickets of another server would be
    /// refused at best: several may go by the same name.
    pub fn config_for(&self, server: &Endpoint) -> Arc<ClientConfig> {
        if !self.resume {
            return self.config.clone();
        }
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Tickets(config, since)) = servers.get(server)
            && since.elapsed() < RESUME_FOR
        {
            return config.clone();
        }
        if servers.len() >= MAX_SERVERS {
            servers.clear();
        }
        let mut config = (*self.config).clone();
        config.resumption = Resumption::in_memory_sessions(TICKETS_OF_A_SERVER);
        let config = Arc::new(config);
        servers.insert(server.clone(), Tickets(config.clone(), Instant::now()));
        config
    }

    /// The certificates of a server for whoever keeps them: thousands of connections to it have them
    /// once.
    pub fn share_chain(&self, server: &Endpoint, chain: Vec<CertificateDer<'static>>) -> Chain {
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = chains.get(server)
            && **known == *chain
        {
            return known.clone();
        }
        if chains.len() >= MAX_SERVERS {
            chains.clear();
        }
        let chain = Chain::from(chain);
        chains.insert(server.clone(), chain.clone());
        chain
    }

    /// What was put right in the identity.
    pub fn warnings(&self) -> &[String] {
        let identity = self.facts.identity.as_ref();
        identity.map_or(&[], |identity| &identity.warnings)
    }

    /// The same, with the number of its generation.
    pub fn with_generation(mut self, generation: u64) -> Self {
        self.facts.generation = generation;
        self
    }

    /// For as long as there is a connection.
    pub fn in_use(&self) -> InUse {
        InUse {
            _servers: self.servers.clone(),
        }
    }

    /// Whether somebody else has it, or a connection under it.
    pub fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.servers) > 1
    }
}

impl ProfileOptions {
    /// Whether something of it is read from files.
    pub fn may_change(&self) -> bool {
        self.sources().any(Source::is_path)
    }

    /// The states of these files now.
    pub fn file_states(&self) -> Vec<FileState> {
        let mut states = Vec::new();
        for source in self.sources() {
            source.add_states(&mut states);
        }
        states
    }

    fn sources(&self) -> impl Iterator<Item = &Source> {
        let trust = self.trust.iter().filter_map(|source| match source {
            TrustSource::Given(source) => Some(source),
            TrustSource::System => None,
        });
        let identity = self.identity.iter().flat_map(IdentitySource::sources);
        identity.chain(trust).chain(&self.revocation)
    }

    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [
            (Version::Tls12, &rustls::version::TLS12),
            (Version::Tls13, &rustls::version::TLS13),
        ];
        let wanted = self.min_version..=self.max_version;
        all.iter()
            .filter(|(version, _)| wanted.contains(version))
            .map(|(_, version)| *version)
            .collect()
    }
}

/// Offers the identity, whatever CAs the server says it accepts: the server decides, and says so.
#[derive(Debug)]
struct IdentityResolver(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for IdentityResolver {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let auth = match &self.0 {
            None => ClientAuth::NoIdentity,
            Some(certified) if certified.key.choose_scheme(schemes).is_none() => {
                ClientAuth::NoCommonScheme
            }
            Some(_) => ClientAuth::Sent,
        };
        observe::note(|seen| {
            seen.request = Some(auth);
            seen.authorities = root_hint_subjects.iter().map(|der| (*der).into()).collect();
        });
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
