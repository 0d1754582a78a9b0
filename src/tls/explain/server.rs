//! Why a server's certificate is not good enough.

use rustls::CertificateError;

use crate::error::{Cause, Error, Stage};
use crate::tls::certificate::{Certificate, printable};
use crate::tls::handshake::Session;
use crate::tls::verify::NotPinned;

/// The error for a certificate that the verifier refused.
pub fn certificate(error: &CertificateError, stage: Stage, session: &Session) -> Error {
    let chain = session.chain();
    let cause = cause(error);
    let hint = match (&cause, chain.first()) {
        (Cause::ServerCertificateUntrusted { .. }, Some(leaf)) => {
            Some(untrusted(leaf, &chain, session))
        }
        (Cause::ServerCertificateExpired { .. }, Some(_)) => {
            chain.iter().find(|found| found.has_expired()).map(expired)
        }
        (Cause::ServerCertificateNotYetValid { .. }, Some(_)) => chain
            .iter()
            .find(|found| found.is_not_yet_valid())
            .map(not_yet_valid),
        (Cause::ServerCertificateInvalid { .. }, Some(leaf)) if leaf.has_small_key() => {
            Some(format!(
                "the server's key ({}) is too small: it needs RSA of at least 2048 bits, or another kind",
                leaf.key
            ))
        }
        (Cause::ServerRevocationUnknown { .. }, Some(_)) => Some(revocation_unknown(&chain)),
        (Cause::ServerCertificateRevoked, Some(leaf)) => Some(format!(
            "its CA has withdrawn the certificate of {} (serial number {}) or of a CA above it: do \
             not trust this server until it has a new one",
            leaf.subject, leaf.serial
        )),
        _ => None,
    };
    let error = Error::new(stage, cause);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn untrusted(leaf: &Certificate, chain: &[Certificate], session: &Session) -> String {
    if leaf.self_signed && chain.len() == 1 {
        return format!(
            "the server's certificate ({}) is self-signed: if that is the server you mean, put this \
             certificate itself into ssl_trusted_certificate",
            leaf.subject
        );
    }
    let last = chain.last().unwrap_or(leaf);
    let sent = match chain.len() {
        1 => "1 certificate".to_owned(),
        count => format!("{count} certificates"),
    };
    let trust = session.facts.trust.as_ref();
    if trust.is_some_and(|trust| trust.has_subject(&last.issuer)) {
        return format!(
            "the server sent {sent}, the last one issued by {}; ssl_trusted_certificate has a CA of \
             this name, which is not the one that signed it: get the current certificate of that CA",
            last.issuer
        );
    }
    if trust.is_some_and(|trust| trust.has_other(&last.issuer)) {
        return format!(
            "the server sent {sent}, the last one issued by {}; the certificate of this name in \
             ssl_trusted_certificate is not marked as a CA's (basicConstraints CA:TRUE, and \
             keyCertSign where it has a keyUsage): reissue it so",
            last.issuer
        );
    }
    format!(
        "the server sent {sent}, the last one issued by {}, which is not in \
         ssl_trusted_certificate: put that CA there; or, if it is an intermediate CA, have the \
         server send its certificate as well",
        last.issuer
    )
}

fn expired(found: &Certificate) -> String {
    format!(
        "the certificate of {} was valid until {}: have the server's renewed, or check this \
         machine's clock",
        found.subject, found.not_after
    )
}

fn not_yet_valid(found: &Certificate) -> String {
    format!(
        "the certificate of {} is valid from {}: check this machine's clock and the server's",
        found.subject, found.not_before
    )
}

fn revocation_unknown(chain: &[Certificate]) -> String {
    let mut issuers: Vec<&str> = chain.iter().map(|found| found.issuer.as_str()).collect();
    issuers.dedup();
    format!(
        "ssl_crl needs a current revocation list of every CA in the server's chain: {}",
        issuers.join("; ")
    )
}

fn cause(error: &CertificateError) -> Cause {
    use CertificateError as Certificate;
    match error {
        Certificate::UnknownIssuer => Cause::ServerCertificateUntrusted {
            reason: "its issuer is not in the trust list (unable to get local issuer certificate)"
                .to_owned(),
        },
        Certificate::Expired | Certificate::ExpiredContext { .. } => {
            let reason = error.to_string();
            Cause::ServerCertificateExpired { reason }
        }
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
            let reason = error.to_string();
            Cause::ServerCertificateNotYetValid { reason }
        }
        Certificate::NotValidForNameContext {
            expected,
            presented,
        } => Cause::ServerNameMismatch {
            expected: expected.to_str().into_owned(),
            presented: presented.iter().map(|name| plain_name(name)).collect(),
        },
        Certificate::Revoked => Cause::ServerCertificateRevoked,
        Certificate::UnknownRevocationStatus => Cause::ServerRevocationUnknown {
            reason: "a CA of its chain has no revocation list in ssl_crl".to_owned(),
        },
        Certificate::ExpiredRevocationList | Certificate::ExpiredRevocationListContext { .. } => {
            Cause::ServerRevocationUnknown {
                reason: "a revocation list in ssl_crl is out of date".to_owned(),
            }
        }
        Certificate::Other(other) => match other.0.downcast_ref::<NotPinned>() {
            Some(NotPinned(pin)) => Cause::ServerKeyNotPinned { pin: pin.clone() },
            None => invalid(match other.0.to_string().as_str() {
                "CaUsedAsEndEntity" => "it is a CA's certificate, not a server's",
                "UnsupportedCertVersion" => "it is not X.509 version 3",
                reason => reason,
            }),
        },
        Certificate::UnsupportedSignatureAlgorithmContext { .. }
        | Certificate::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            invalid("it is signed in a way that is not supported, such as with SHA-1")
        }
        Certificate::BadSignature => invalid("its key did not sign the handshake (BadSignature)"),
        _ => invalid(&error.to_string()),
    }
}

fn invalid(reason: &str) -> Cause {
    let reason = reason.to_owned();
    Cause::ServerCertificateInvalid { reason }
}

/// webpki shows names in its own debug form: `DnsName("a.example")`, `IpAddress(127.0.0.1)`.
fn plain_name(shown: &str) -> String {
    let name = shown.split_once('(').map_or(shown, |(_, rest)| rest);
    printable(name.trim_matches(|c| matches!(c, '"' | ')' | '(')))
}
