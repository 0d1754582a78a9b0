//! TLS profile: what decides whether two connections are interchangeable.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

use super::identity::Identity;
use super::observe::{self, ClientAuth};
use super::verify::AcceptAnyServer;
use super::{IdentitySource, TrustSource};
use crate::error::{Error, Result};

/// What the caller's options say about TLS, apart from the server's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProfileOptions {
    /// The client identity to offer.
    pub identity: Option<IdentitySource>,
    /// Which CAs may vouch for the server.
    pub trust: TrustSource,
    /// Whether the server's certificate is judged at all.
    pub verify: bool,
}

/// A profile and, once it has been needed, the rustls configuration made from it.
///
/// Two profiles are the same only if they are the same object: [`ProfileCache`] gives equal
/// options the same one, and with it the same connections and the same session tickets.
#[derive(Debug)]
pub struct Profile {
    options: ProfileOptions,
    loaded: Mutex<Option<Loaded>>,
}

/// What a handshake under a profile needs.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration, with its session tickets.
    pub config: Arc<ClientConfig>,
    /// The identity that it offers.
    pub identity: Option<Arc<Identity>>,
}

impl Profile {
    /// What an earlier connection has loaded.
    pub fn ready(&self) -> Option<Loaded> {
        self.loaded
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes the rustls configuration. Reads files and parses keys: not for the event loop.
    ///
    /// # Errors
    ///
    /// What is wrong with the identity or the trust anchors.
    pub fn load(&self) -> Result<Loaded> {
        let loaded = self.options.load()?;
        let mut ready = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was first wins: session tickets live in the configuration.
        Ok(ready.get_or_insert(loaded).clone())
    }

    /// Whether the server's certificate is judged.
    pub fn verifies(&self) -> bool {
        self.options.verify
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

impl ProfileOptions {
    fn load(&self) -> Result<Loaded> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(error.to_string()))?;
        let builder = match self.verify {
            true => builder.with_webpki_verifier(self.verifier(provider)?),
            false => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAnyServer(provider))),
        };
        let identity = match &self.identity {
            Some(source) => Some(Arc::new(source.load()?)),
            None => None,
        };
        let resolver = Arc::new(IdentityResolver(identity.clone()));
        let config = Arc::new(builder.with_client_cert_resolver(resolver));
        Ok(Loaded { config, identity })
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
        WebPkiServerVerifier::builder_with_provider(self.trust.load()?, provider)
            .build()
            .map_err(|error| Error::internal(error.to_string()))
    }
}

/// Offers the identity, whatever CAs the server says it accepts: the server decides, and says so.
#[derive(Debug)]
struct IdentityResolver(Option<Arc<Identity>>);

impl ResolvesClientCert for IdentityResolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let auth = match &self.0 {
            None => ClientAuth::NoIdentity,
            Some(identity) if identity.certified.key.choose_scheme(schemes).is_none() => {
                ClientAuth::NoCommonScheme
            }
            Some(_) => ClientAuth::Sent,
        };
        observe::note(|seen| seen.request = Some(auth));
        Some(self.0.as_ref()?.certified.clone())
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Profiles by their options.
#[derive(Debug, Default)]
pub struct ProfileCache(Mutex<HashMap<ProfileOptions, Arc<Profile>>>);

/// More identities than a gateway has; each holds a few kilobytes of PEM and its configuration.
const MAX_PROFILES: usize = 1024;

impl ProfileCache {
    /// The profile of these options.
    pub fn get(&self, options: ProfileOptions) -> Arc<Profile> {
        let mut profiles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
            loaded: Mutex::new(None),
        });
        profiles.insert(options, profile.clone());
        profile
    }
}
