//! What a certificate says about itself, for errors and for comparing keys.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

/// The parts of a leaf certificate that explanations use.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// Subject, in the order of the certificate.
    pub subject: String,
    /// Issuer.
    pub issuer: String,
    /// Start of its validity, as text.
    pub not_before: String,
    /// End of its validity, as text.
    pub not_after: String,
    expires: Option<SystemTime>,
    /// DER of its public key (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
}

impl Leaf {
    /// Reads a certificate, of any version of X.509. `None` if it is not one.
    pub fn parse(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        Some(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_before: validity.not_before.to_string(),
            not_after: validity.not_after.to_string(),
            expires: system_time(validity.not_after),
            public_key: certificate.public_key().raw.to_vec(),
        })
    }

    /// Whether it has expired by now.
    pub fn has_expired(&self) -> bool {
        self.expires
            .is_some_and(|expires| expires < SystemTime::now())
    }
}

fn system_time(time: ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
