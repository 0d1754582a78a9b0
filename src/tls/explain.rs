//! From TLS failures to causes: which side refused, and what the caller can do about it.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use super::handshake::Session;
use super::identity::Identity;
use super::observe::ClientAuth;
use crate::error::{AlertName, Cause, Error, Stage};

/// A failed handshake.
pub fn handshake(error: &io::Error, session: &Session) -> Error {
    if let Some(explained) = io_error(error, Stage::Tls, session) {
        return explained;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => closed(Stage::Tls, session),
        _ => Error::new(
            Stage::Tls,
            Cause::Tls {
                reason: error.to_string(),
                alert: None,
            },
        ),
    }
}

/// An I/O error that carries a TLS error.
pub fn io_error(error: &io::Error, stage: Stage, session: &Session) -> Option<Error> {
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(tls_error(tls, stage, session))
}

/// A connection that was closed with no alert to say why.
pub fn closed(stage: Stage, session: &Session) -> Error {
    let error = Error::closed(stage);
    match session.observation.seen().request {
        Some(ClientAuth::NoIdentity) => error.with_hint(
            "the server asked for a client certificate and none was given, which may be why it \
             closed the connection: set ssl_cert and ssl_key",
        ),
        Some(ClientAuth::Sent | ClientAuth::NoCommonScheme) if stage != Stage::Body => error
            .with_hint(
                "the server closed the connection after it was sent the client certificate, which \
             may be why: check ssl_cert, and the server's log",
            ),
        _ => error,
    }
}

fn tls_error(error: &rustls::Error, stage: Stage, session: &Session) -> Error {
    use rustls::Error as Tls;
    match error {
        Tls::AlertReceived(alert) => received(*alert, stage, session),
        Tls::InvalidCertificate(error) => Error::new(stage, server_certificate(error)),
        Tls::PeerIncompatible(
            reason @ (PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig),
        ) => version(
            stage,
            format!("the server speaks no TLS version that we do: {reason:?}"),
        ),
        // An http port answers a ClientHello with text, which is no TLS record.
        Tls::InvalidMessage(_) if stage == Stage::Tls => version(
            stage,
            "the server does not speak TLS on this port".to_owned(),
        ),
        other => Error::new(
            stage,
            Cause::Tls {
                reason: other.to_string(),
                alert: None,
            },
        ),
    }
}

fn version(stage: Stage, reason: String) -> Error {
    Error::new(
        stage,
        Cause::TlsProtocolVersion {
            reason,
            alert: None,
        },
    )
}

/// A fatal alert from the server (RFC 8446, 6.2; RFC 5246, 7.2.2).
fn received(alert: AlertDescription, stage: Stage, session: &Session) -> Error {
    let number = u8::from(alert);
    let requested = session.observation.seen().request.is_some();
    match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => client_certificate(number, stage, session),
        // TLS 1.2 servers use these for a missing or bad certificate as well: OpenSSL
        // handshake_failure, GnuTLS decode_error for an empty certificate, OpenSSL
        // illegal_parameter for a key on a curve that it does not take.
        AlertDescription::HandshakeFailure
        | AlertDescription::DecryptError
        | AlertDescription::DecodeError
        | AlertDescription::IllegalParameter
            if requested =>
        {
            client_certificate(number, stage, session)
        }
        AlertDescription::ProtocolVersion => Error::new(
            stage,
            Cause::TlsProtocolVersion {
                reason: format!(
                    "the server speaks no TLS version that we do ({})",
                    AlertName(number)
                ),
                alert: Some(number),
            },
        ),
        _ => Error::new(
            stage,
            Cause::Tls {
                reason: format!("the server refused ({})", AlertName(number)),
                alert: Some(number),
            },
        ),
    }
}

/// Without a certificate the server misses one; with one it is the one that it does not like.
fn client_certificate(alert: u8, stage: Stage, session: &Session) -> Error {
    match (session.observation.seen().request, &session.identity) {
        (Some(ClientAuth::NoIdentity), _) | (None, None) => {
            Error::new(stage, Cause::ClientCertificateRequired { alert })
        }
        (Some(ClientAuth::NoCommonScheme), _) => no_common_scheme(Some(alert), stage, session),
        (_, identity) => {
            let error = Error::new(
                stage,
                Cause::ClientCertificateRejected { alert: Some(alert) },
            );
            match identity {
                Some(identity) => error.with_hint(rejection_hint(identity)),
                None => error,
            }
        }
    }
}

fn rejection_hint(identity: &Identity) -> String {
    let option = identity.certificate_option;
    let leaf = &identity.leaf;
    if leaf.has_expired() {
        return format!(
            "the client certificate in {option} has expired (valid until {}): renew it",
            leaf.not_after
        );
    }
    format!(
        "check the client certificate in {option} (subject {}, issued by {}): the server has to \
         trust its issuer, intermediate CAs have to stand behind it, and it has to allow clientAuth",
        leaf.subject, leaf.issuer
    )
}

/// The server asked for a certificate and accepts no signature that the identity's key can make.
pub fn no_common_scheme(alert: Option<u8>, stage: Stage, session: &Session) -> Error {
    let error = Error::new(stage, Cause::ClientCertificateRejected { alert });
    match &session.identity {
        Some(identity) => error.with_hint(format!(
            "the server accepts no signature that the key in {} can make: use a key of another \
             kind in {} and {}, or let the server accept more signature algorithms",
            identity.key_option, identity.certificate_option, identity.key_option
        )),
        None => error,
    }
}

fn server_certificate(error: &CertificateError) -> Cause {
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
        Certificate::Other(other) => Cause::ServerCertificateInvalid {
            reason: match other.0.to_string().as_str() {
                "CaUsedAsEndEntity" => "it is a CA's certificate, not a server's".to_owned(),
                "UnsupportedCertVersion" => "it is not X.509 version 3".to_owned(),
                reason => reason.to_owned(),
            },
        },
        _ => Cause::ServerCertificateInvalid {
            reason: error.to_string(),
        },
    }
}

/// webpki shows names in its own debug form: `DnsName("a.example")`, `IpAddress(127.0.0.1)`.
fn plain_name(shown: &str) -> String {
    match shown.split_once('(') {
        Some((_, rest)) => rest
            .trim_matches(|c| matches!(c, '"' | ')' | '('))
            .to_owned(),
        None => shown.to_owned(),
    }
}
