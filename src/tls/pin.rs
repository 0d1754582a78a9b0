//! Pinned public keys, in curl's notation.

use data_encoding::BASE64;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// SHA-256 of the public keys (SubjectPublicKeyInfo) that a server may have; any if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Pins(Vec<[u8; 32]>);

const PREFIX: &str = "sha256//";

impl Pins {
    /// Reads `sha256//BASE64`, or several of them with `;` in between. `None` if it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let pins = text.split(';').map(|pin| {
            let digest = pin.trim().strip_prefix(PREFIX)?;
            BASE64.decode(digest.as_bytes()).ok()?.try_into().ok()
        });
        Some(Self(pins.collect::<Option<_>>()?))
    }

    /// Whether the certificate's key is one of them.
    ///
    /// # Errors
    ///
    /// The pin of the key that it has.
    pub fn check(&self, certificate: &[u8]) -> Result<(), String> {
        if self.0.is_empty() {
            return Ok(());
        }
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|_| "a key that cannot be read".to_owned())?;
        let digest = Sha256::digest(certificate.public_key().raw).into();
        match self.0.contains(&digest) {
            true => Ok(()),
            false => Err(format!("{PREFIX}{}", BASE64.encode(&digest))),
        }
    }
}
