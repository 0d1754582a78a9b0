//! Putting the certificates of an identity into order.

use rustls::pki_types::CertificateDer;

use super::certificate::Certificate;

/// Certificates as TLS wants them: the leaf first, each one issued by the next (RFC 8446, 4.4.2).
#[derive(Debug)]
pub struct Chain {
    /// DER, in order.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Their facts, in the same order.
    pub facts: Vec<Certificate>,
    /// Whether they came in another order.
    pub was_sorted: bool,
    /// How many came that are no part of the chain.
    pub strays: usize,
}

impl Chain {
    /// The chain of the certificate that has this public key (DER). `None` if there is none.
    ///
    /// What cannot be put into it is dropped: some servers take a stray certificate for a bad chain.
    pub fn of(
        given: Vec<(CertificateDer<'static>, Certificate)>,
        public_key: &[u8],
    ) -> Option<Self> {
        let facts = |index: usize| &given[index].1;
        let leaf = (0..given.len()).find(|&index| facts(index).public_key == public_key)?;
        let mut order = vec![leaf];
        let mut last = leaf;
        while !facts(last).self_signed
            && let Some(next) = next_of(&given, &order, facts(last))
        {
            order.push(next);
            last = next;
        }
        let was_sorted = !order.is_sorted();
        let strays = given.len() - order.len();
        let (certificates, facts) = order.iter().map(|&index| given[index].clone()).unzip();
        Some(Self {
            certificates,
            facts,
            was_sorted,
            strays,
        })
    }
}

/// A CA that was issued anew has two certificates of one name, and the identifier of the key tells
/// which; but there are PKIs whose identifiers are wrong, and names count there.
fn next_of(
    given: &[(CertificateDer<'static>, Certificate)],
    order: &[usize],
    last: &Certificate,
) -> Option<usize> {
    let find = |is_issuer: fn(&Certificate, &Certificate) -> bool| {
        given.iter().enumerate().position(|(index, (_, facts))| {
            !order.contains(&index) && facts.is_ca && is_issuer(last, facts)
        })
    };
    find(Certificate::names_key_of).or_else(|| find(Certificate::names_issuer))
}
