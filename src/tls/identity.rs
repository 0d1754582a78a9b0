//! Client identity: a certificate, its chain and its private key.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Source;
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

impl IdentitySource {
    /// Reads and checks the identity. May read files, so it is not for the event loop.
    ///
    /// # Errors
    ///
    /// No or broken PEM, an encrypted key, or a key that is not the leaf certificate's.
    pub fn load(&self) -> Result<Arc<CertifiedKey>> {
        let chain = self.chain()?;
        let key = any_supported_type(&self.private_key()?).map_err(|error| {
            self.bad_key(format!("the key is not of a supported kind: {error}"))
        })?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) => Ok(Arc::new(certified)),
            Err(rustls::Error::InconsistentKeys(_)) => Err(Error::new(
                Stage::Options,
                Cause::KeyMismatch {
                    certificate: self.certificate.option(),
                    key: self.key.option(),
                },
            )),
            Err(_) => Err(self.bad_certificate("the first certificate is not X.509")),
        }
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>> {
        let text = self
            .certificate
            .read()
            .map_err(|reason| self.bad_certificate(reason))?;
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
        let text = self.key.read().map_err(|reason| self.bad_key(reason))?;
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
