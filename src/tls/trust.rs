//! Trust anchors: which CAs may vouch for a server.

use std::sync::Arc;

use once_cell::sync::OnceCell;
use rustls::RootCertStore;

use super::Source;
use super::pem::{self, Block};
use crate::error::{Cause, Error, Result, Stage};

/// Where trust anchors come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TrustSource {
    /// The system's CA bundle (`SSL_CERT_FILE` and `SSL_CERT_DIR` move it).
    System,
    /// PEM certificates of the caller; the system's are not trusted then.
    Given(Source),
}

impl TrustSource {
    /// Reads the anchors. May read files, so it is not for the event loop.
    ///
    /// # Errors
    ///
    /// No certificate, or none that can be an anchor.
    pub fn load(&self) -> Result<Arc<RootCertStore>> {
        match self {
            Self::System => system(),
            Self::Given(source) => given(source).map(Arc::new),
        }
    }
}

/// The system store has over a hundred certificates, so it is read once per process.
fn system() -> Result<Arc<RootCertStore>> {
    static SYSTEM: OnceCell<Arc<RootCertStore>> = OnceCell::new();
    SYSTEM
        .get_or_try_init(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            match roots.is_empty() {
                true => Err(Error::new(Stage::Options, Cause::NoSystemTrust)),
                false => Ok(Arc::new(roots)),
            }
        })
        .cloned()
}

fn given(source: &Source) -> Result<RootCertStore> {
    let bad = |reason: String| bad_trust(source.option(), reason);
    let text = source.read()?;
    let mut roots = RootCertStore::empty();
    for block in pem::blocks(&text).map_err(bad)? {
        if let Block::Certificate(der) = block {
            roots
                .add(der)
                .map_err(|error| bad(format!("a certificate is not X.509: {error}")))?;
        }
    }
    match roots.is_empty() {
        true => Err(bad("no PEM certificate found".into())),
        false => Ok(roots),
    }
}

fn bad_trust(option: &'static str, reason: impl Into<String>) -> Error {
    let reason = reason.into();
    Error::new(Stage::Options, Cause::BadCertificatePem { option, reason })
}
