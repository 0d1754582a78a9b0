//! TLS profile: what decides whether two connections are interchangeable.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

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
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Profile {
    /// The rustls configuration, if an earlier connection has made it.
    pub fn ready(&self) -> Option<Arc<ClientConfig>> {
        self.config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes the rustls configuration. Reads files and parses keys: not for the event loop.
    ///
    /// # Errors
    ///
    /// What is wrong with the identity or the trust anchors.
    pub fn load(&self) -> Result<Arc<ClientConfig>> {
        let config = Arc::new(self.options.client_config()?);
        let mut ready = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever was first wins: session tickets live in the configuration.
        Ok(ready.get_or_insert(config).clone())
    }

    /// Whether the server's certificate is judged.
    pub fn verifies(&self) -> bool {
        self.options.verify
    }

    /// Whether there is a client identity to offer.
    pub fn has_identity(&self) -> bool {
        self.options.identity.is_some()
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
    fn client_config(&self) -> Result<ClientConfig> {
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
        let identity = self.identity.as_ref().map(IdentitySource::load);
        Ok(builder.with_client_cert_resolver(Arc::new(IdentityResolver(identity.transpose()?))))
    }

    fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
        WebPkiServerVerifier::builder_with_provider(self.trust.load()?, provider)
            .build()
            .map_err(|error| Error::internal(error.to_string()))
    }
}

/// Offers the identity, whatever CAs the server says it accepts: the server decides, and says so.
#[derive(Debug)]
struct IdentityResolver(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for IdentityResolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let auth = match &self.0 {
            None => ClientAuth::NoIdentity,
            Some(identity) if identity.key.choose_scheme(schemes).is_none() => {
                ClientAuth::NoCommonScheme
            }
            Some(_) => ClientAuth::Sent,
        };
        observe::note(|seen| seen.request = Some(auth));
        self.0.clone()
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
            config: Mutex::new(None),
        });
        profiles.insert(options, profile.clone());
        profile
    }
}
