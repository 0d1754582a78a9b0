//! Trust: which CAs may vouch for a server, and what they have revoked.

use std::collections::HashSet;
use std::sync::Arc;

use once_cell::sync::OnceCell;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls_native_certs::ErrorKind;

use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::Source;
use super::certificate::Certificate;
use super::pem::{self, Block};
use crate::error::{Cause, Error, Result, Stage, is_exhaustion};

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
    /// Names of the CAs.
    subjects: HashSet<String>,
    /// Names of what was given and is no CA.
    others: HashSet<String>,
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

    /// Whether something of this name was given that is not marked as a CA.
    pub fn has_other(&self, name: &str) -> bool {
        self.others.contains(name)
    }

    fn empty() -> Self {
        Self {
            roots: Arc::new(RootCertStore::empty()),
            themselves: HashSet::new(),
            subjects: HashSet::new(),
            others: HashSet::new(),
        }
    }

    fn extend(&mut self, other: &Self) {
        let roots = Arc::make_mut(&mut self.roots);
        roots.extend(other.roots.roots.iter().cloned());
        self.themselves.extend(other.themselves.iter().cloned());
        self.subjects.extend(other.subjects.iter().cloned());
        self.others.extend(other.others.iter().cloned());
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
                    match self.add(der) {
                        Ok(()) => found = true,
                        Err(_) if is_folder => {}
                        Err(reason) => {
                            return Err(bad(format!("a certificate is not X.509: {reason}")));
                        }
                    }
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
            self.subjects.insert(facts.subject);
        } else {
            self.others.insert(facts.subject);
        }
        if facts.self_signed {
            self.themselves.insert(der);
        }
        Ok(())
    }
}

/// The system store has over a hundred certificates, so it is read once per process.
fn system() -> Result<Arc<Trust>> {
    static SYSTEM: OnceCell<Arc<Trust>> = OnceCell::new();
    SYSTEM
        .get_or_try_init(|| {
            let mut trust = Trust::empty();
            let found = rustls_native_certs::load_native_certs();
            for error in found.errors {
                // A part of the store would be all of it for as long as the process lives.
                if let ErrorKind::Io { inner, path } = &error.kind
                    && is_exhaustion(inner)
                {
                    return Err(options_error(Cause::Unreadable {
                        option: "ssl_trusted_certificate",
                        path: path.display().to_string(),
                        reason: inner.to_string(),
                    }));
                }
            }
            for der in found.certs {
                // One that we cannot read is one that we do not trust.
                let _ = trust.add(der);
            }
            match trust.roots.is_empty() {
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
        let mistaken = pem::mistaken_for(&text);
        return Err(bad(format!("no PEM revocation list found{mistaken}")));
    }
    let mut dated = Vec::new();
    for list in lists {
        let (_, parsed) = CertificateRevocationList::from_der(&list)
            .map_err(|_| bad("a PEM block is not a revocation list".into()))?;
        // webpki says of version 1 only that it cannot read it; `openssl ca` makes it by default.
        if parsed.version().is_none() {
            return Err(bad("it is of version 1, which has no extensions".into()));
        }
        dated.push((parsed.last_update().timestamp(), list));
    }
    // webpki takes the first list of a CA, and an old one does not know what was revoked since.
    dated.sort_by_key(|(issued, _)| std::cmp::Reverse(*issued));
    Ok(dated.into_iter().map(|(_, list)| list).collect())
}

/// The error for revocation lists that cannot be used.
pub fn bad_crl(source: &Source, reason: String) -> Error {
    let option = source.option();
    options_error(Cause::BadCrl { option, reason })
}

fn options_error(cause: Cause) -> Error {
    Error::new(Stage::Options, cause)
}
