//! Client identity: a certificate, its chain and its private key.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Source;
use super::certificate::Certificate;
use super::chain::Chain;
use super::pem::{self, Block};
use super::secret::{self, Passphrase};
use crate::error::{Cause, Error, Result, Stage};
use crate::vault;

/// Where a client identity comes from. Each [`Source`] knows the option it was given by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdentitySource {
    /// Certificates and key.
    pub files: IdentityFiles,
    /// What the key is encrypted with.
    pub passphrase: Option<Passphrase>,
}

/// See [`IdentitySource`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum IdentityFiles {
    /// PEM: the leaf certificate and its chain, and the leaf's private key.
    Pem {
        /// Leaf certificate first, its chain behind it.
        certificate: Source,
        /// The leaf's private key.
        key: Source,
    },
    /// All of it in one file.
    Pkcs12(Source),
}

/// What is known of a client identity. Without its key: who reports on a connection that has ended
/// need not keep that.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The facts of the leaf certificate.
    pub leaf: Certificate,
    /// The facts of the certificates behind it.
    pub issuers: Vec<Certificate>,
    /// What was put right, in a sentence each.
    pub warnings: Vec<String>,
    /// The option that gave the certificate.
    pub certificate_option: &'static str,
    /// The option that gave the key.
    pub key_option: &'static str,
}

impl Identity {
    /// The facts of all certificates, the leaf's first.
    pub fn chain(&self) -> impl Iterator<Item = &Certificate> {
        std::iter::once(&self.leaf).chain(&self.issuers)
    }
}

impl IdentitySource {
    /// Reads and checks the identity. May read files, so it is not for the event loop.
    ///
    /// # Errors
    ///
    /// No or broken PEM or PKCS#12, a key that cannot be decrypted, or one that belongs to none of
    /// the certificates.
    pub fn load(&self) -> Result<(Identity, Arc<CertifiedKey>)> {
        vault::within(|| self.load_within())
    }

    fn load_within(&self) -> Result<(Identity, Arc<CertifiedKey>)> {
        let (certificates, key) = self.read()?;
        let key = any_supported_type(&key)
            .map_err(|_| self.bad_key("the key is of a kind or a size that is not supported"))?;
        let given = certificates
            .into_iter()
            .map(|der| Certificate::parse(&der).map(|facts| (der, facts)))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| self.bad_certificate("a certificate is not X.509"))?;
        // Compared here and not by rustls, which reads only version 3 of X.509.
        let public_key = key.public_key();
        let chain = public_key.and_then(|public| Chain::of(given, public.as_ref()));
        let Some(mut chain) = chain else {
            return Err(Error::new(
                Stage::Options,
                Cause::KeyMismatch {
                    certificate: self.certificate_option(),
                    key: self.key_option(),
                },
            ));
        };
        let warnings = self.warnings(&chain);
        let identity = Identity {
            warnings,
            leaf: chain.facts.remove(0),
            issuers: chain.facts,
            certificate_option: self.certificate_option(),
            key_option: self.key_option(),
        };
        let certified = CertifiedKey::new(chain.certificates, key);
        Ok((identity, Arc::new(certified)))
    }

    /// What may change on disk.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let (first, second) = match &self.files {
            IdentityFiles::Pem { certificate, key } => (certificate, Some(key)),
            IdentityFiles::Pkcs12(source) => (source, None),
        };
        std::iter::once(first).chain(second)
    }

    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let passphrase = self.passphrase.as_ref();
        match &self.files {
            IdentityFiles::Pem { certificate, key } => Ok((
                self.certificates(certificate)?,
                secret::private_key(key, passphrase)?,
            )),
            IdentityFiles::Pkcs12(source) => {
                let read = secret::pkcs12(source, passphrase)?;
                Ok((read.certificates, read.key))
            }
        }
    }

    fn certificates(&self, source: &Source) -> Result<Vec<CertificateDer<'static>>> {
        let text = source.read_one()?;
        let blocks = pem::blocks(&text).map_err(|reason| self.bad_certificate(reason))?;
        let certificates: Vec<_> = blocks
            .into_iter()
            .filter_map(|block| match block {
                Block::Certificate(der) => Some(der),
                _ => None,
            })
            .collect();
        match certificates.is_empty() {
            true => Err(self.bad_certificate(format!(
                "no PEM certificate found{}",
                pem::mistaken_for(&text)
            ))),
            false => Ok(certificates),
        }
    }

    fn warnings(&self, chain: &Chain) -> Vec<String> {
        let option = self.certificate_option();
        // A PKCS#12 file has its certificates in no order.
        let orders = matches!(self.files, IdentityFiles::Pem { .. });
        let mut warnings = Vec::new();
        if chain.was_sorted && orders {
            warnings.push(format!(
                "the certificates in '{option}' are not in order: they were sorted; the \
                 certificate of the key belongs first, and each one's issuer behind it"
            ));
        }
        if chain.strays > 0 {
            warnings.push(format!(
                "'{option}' has certificates that are not part of the chain of {} ({} of them): \
                 they were left out",
                chain.facts[0].subject, chain.strays
            ));
        }
        warnings
    }

    fn certificate_option(&self) -> &'static str {
        match &self.files {
            IdentityFiles::Pem { certificate, .. } => certificate.option(),
            IdentityFiles::Pkcs12(source) => source.option(),
        }
    }

    fn key_option(&self) -> &'static str {
        match &self.files {
            IdentityFiles::Pem { key, .. } => key.option(),
            IdentityFiles::Pkcs12(source) => source.option(),
        }
    }

    fn bad_certificate(&self, reason: impl Into<String>) -> Error {
        let cause = Cause::BadCertificatePem {
            option: self.certificate_option(),
            reason: reason.into(),
        };
        Error::new(Stage::Options, cause)
    }

    fn bad_key(&self, reason: impl Into<String>) -> Error {
        let cause = Cause::BadKeyPem {
            option: self.key_option(),
            reason: reason.into(),
        };
        Error::new(Stage::Options, cause)
    }
}
