//! Client identity: a certificate, its chain and its private key.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Source;
use super::leaf::Leaf;
use super::pem::{self, Block};
use crate::error::{Cause, Error, Result, Stage};

/// Where a client identity comes from. Each [`Source`] knows the option it was given by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentitySource {
    /// Leaf certificate first, its chain behind it.
    pub certificate: Source,
    /// The leaf's private key.
    pub key: Source,
}

/// A client identity that can be offered, and what is known of it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Chain and key.
    pub certified: Arc<CertifiedKey>,
    /// Its first certificate.
    pub leaf: Leaf,
    /// The option that gave the certificate.
    pub certificate_option: &'static str,
    /// The option that gave the key.
    pub key_option: &'static str,
}

impl IdentitySource {
    /// Reads and checks the identity. May read files, so it is not for the event loop.
    ///
    /// # Errors
    ///
    /// No or broken PEM, an encrypted key, or a key that is not the leaf certificate's.
    pub fn load(&self) -> Result<Identity> {
        let chain = self.chain()?;
        let key = any_supported_type(&self.private_key()?)
            .map_err(|_| self.bad_key("the key is of a kind or a size that is not supported"))?;
        let leaf = chain
            .first()
            .and_then(Leaf::parse)
            .ok_or_else(|| self.bad_certificate("the first certificate is not X.509"))?;
        // Compared here and not by rustls, which reads only version 3 of X.509.
        if key
            .public_key()
            .is_none_or(|public| public.as_ref() != leaf.public_key)
        {
            return Err(Error::new(
                Stage::Options,
                Cause::KeyMismatch {
                    certificate: self.certificate.option(),
                    key: self.key.option(),
                },
            ));
        }
        Ok(Identity {
            certified: Arc::new(CertifiedKey::new(chain, key)),
            leaf,
            certificate_option: self.certificate.option(),
            key_option: self.key.option(),
        })
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let text = self.certificate.read()?;
        let blocks = pem::blocks(&text).map_err(|reason| self.bad_certificate(reason))?;
        let chain: Vec<_> = blocks
            .into_iter()
            .filter_map(|block| match block {
                Block::Certificate(der) => Some(der),
                _ => None,
            })
            .collect();
        match chain.is_empty() {
            true => Err(self.bad_certificate("no PEM certificate found")),
            false => Ok(chain),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>> {
        let text = self.key.read()?;
        if pem::is_encrypted_key(&text) {
            let option = self.key.option();
            return Err(Error::new(Stage::Options, Cause::KeyEncrypted { option }));
        }
        pem::blocks(&text)
            .map_err(|reason| self.bad_key(reason))?
            .into_iter()
            .find_map(|block| match block {
                Block::Key(der) => Some(der),
                _ => None,
            })
            .ok_or_else(|| self.bad_key("no PEM private key found"))
    }

    fn bad_certificate(&self, reason: impl Into<String>) -> Error {
        let cause = Cause::BadCertificatePem {
            option: self.certificate.option(),
            reason: reason.into(),
        };
        Error::new(Stage::Options, cause)
    }

    fn bad_key(&self, reason: impl Into<String>) -> Error {
        let cause = Cause::BadKeyPem {
            option: self.key.option(),
            reason: reason.into(),
        };
        Error::new(Stage::Options, cause)
    }
}
