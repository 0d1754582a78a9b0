//! Trust: which CAs may vouch for a server, and what they have revoked.

use std::collections::HashSet;
use std::sync::Arc;

use once_cell::sync::OnceCell;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::Source;
use super::certificate::Certificate;
use super::pem::{self, Block};
use crate::error::{Cause, Error, Result, Stage};

/// One place that trust anchors come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TrustSource {
    /// The system's CA bundle (`SSL_CERT_FILE` and `SSL_CERT_DIR` move it).
    System,
    /// PEM certificates of the caller.
    Given(Source),
}

/// Certificates that are trusted.
#[derive(Debug, Clone)]
pub struct Trust {
    /// CAs: whom they vouch for is trusted.
    pub roots: Arc<RootCertStore>,
    /// Self-signed certificates, of servers or CAs: these themselves are trusted.
    pub themselves: HashSet<CertificateDer<'static>>,
    subjects: HashSet<String>,
}

impl Trust {
    /// Reads the anchors. May read files, so it is not for the event loop.
    ///
    /// # Errors
    ///
    /// A source without a certificate.
    pub fn load(sources: &[TrustSource]) -> Result<Arc<Self>> {
        match sources {
            [TrustSource::System] => system(),
            _ => {
                let mut trust = Self::empty();
                for source in sources {
                    match source {
                        TrustSource::System => trust.extend(&*system()?),
                        TrustSource::Given(source) => trust.read(source)?,
                    }
                }
                Ok(Arc::new(trust))
            }
        }
    }

    /// Whether a CA of this name is trusted. It may be another one all the same.
    pub fn has_subject(&self, name: &str) -> bool {
        self.subjects.contains(name)
    }

    fn empty() -> Self {
        Self {
            roots: Arc::new(RootCertStore::empty()),
            themselves: HashSet::new(),
            subjects: HashSet::new(),
        }
    }

    fn extend(&mut self, other: &Self) {
        let roots = Arc::make_mut(&mut self.roots);
        roots.extend(other.roots.roots.iter().cloned());
        self.themselves.extend(other.themselves.iter().cloned());
        self.subjects.extend(other.subjects.iter().cloned());
    }

    fn read(&mut self, source: &Source) -> Result<()> {
        let option = source.option();
        let bad = |reason: String| options_error(Cause::BadCertificatePem { option, reason });
        let is_folder = source.is_folder();
        let mut found = false;
        for text in source.read()? {
            let blocks = match pem::blocks(&text) {
                Ok(blocks) => blocks,
                // A folder of CAs may have other files in it as well.
                Err(_) if is_folder => continue,
                Err(reason) => return Err(bad(reason)),
            };
            for block in blocks {
                if let Block::Certificate(der) = block {
                    self.add(der)
                        .map_err(|reason| bad(format!("a certificate is not X.509: {reason}")))?;
                    found = true;
                }
            }
        }
        match found {
            true => Ok(()),
            false => Err(bad("no PEM certificate found".into())),
        }
    }

    /// A certificate that is no CA's must not vouch for others: whoever has its key could make
    /// certificates for any name.
    fn add(&mut self, der: CertificateDer<'static>) -> std::result::Result<(), String> {
        let facts = Certificate::parse(&der).ok_or("it cannot be parsed")?;
        if facts.is_ca {
            let roots = Arc::make_mut(&mut self.roots);
            roots.add(der.clone()).map_err(|error| error.to_string())?;
        }
        if facts.self_signed {
            self.themselves.insert(der);
        }
        self.subjects.insert(facts.subject);
        Ok(())
    }
}

/// The system store has over a hundred certificates, so it is read once per process.
fn system() -> Result<Arc<Trust>> {
    static SYSTEM: OnceCell<Arc<Trust>> = OnceCell::new();
    SYSTEM
        .get_or_try_init(|| {
            let mut trust = Trust::empty();
            for der in rustls_native_certs::load_native_certs().certs {
                // One that we cannot read is one that we do not trust.
                let _ = trust.add(der);
            }
            match trust.subjects.is_empty() {
                true => Err(options_error(Cause::NoSystemTrust)),
                false => Ok(Arc::new(trust)),
            }
        })
        .cloned()
}

/// Reads the revocation lists of `ssl_crl`.
///
/// # Errors
///
/// No or broken PEM.
pub fn revocation_lists(source: &Source) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let bad = |reason: String| bad_crl(source, reason);
    let text = source.read_one()?;
    let lists: Vec<_> = pem::blocks(&text)
        .map_err(bad)?
        .into_iter()
        .filter_map(|block| match block {
            Block::RevocationList(der) => Some(der),
            _ => None,
        })
        .collect();
    if lists.is_empty() {
        return Err(bad("no PEM revocation list found".into()));
    }
    for list in &lists {
        // webpki says of version 1 only that it cannot read it; `openssl ca` makes it by default.
        let parsed = CertificateRevocationList::from_der(list);
        if parsed.is_ok_and(|(_, parsed)| parsed.version().is_none()) {
            return Err(bad("it is of version 1, which has no extensions".into()));
        }
    }
    Ok(lists)
}

/// The error for revocation lists that cannot be used.
pub fn bad_crl(source: &Source, reason: String) -> Error {
    let option = source.option();
    options_error(Cause::BadCrl { option, reason })
}

fn options_error(cause: Cause) -> Error {
    Error::new(Stage::Options, cause)
}
