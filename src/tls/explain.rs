//! From TLS failures to causes: which side refused, and what the caller can do about it.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible};

use super::handshake::Session;
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
        Some(ClientAuth::Sent) if stage != Stage::Body => error.with_hint(
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
    let cause = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            client_certificate(number, session)
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => client_certificate(number, session),
        // TLS 1.2 servers use it for everything, a missing or bad certificate among it.
        AlertDescription::HandshakeFailure | AlertDescription::DecryptError
            if session.observation.seen().request.is_some() =>
        {
            client_certificate(number, session)
        }
        AlertDescription::ProtocolVersion => Cause::TlsProtocolVersion {
            reason: format!(
                "the server speaks no TLS version that we do ({})",
                AlertName(number)
            ),
            alert: Some(number),
        },
        _ => Cause::Tls {
            reason: format!("the server refused ({})", AlertName(number)),
            alert: Some(number),
        },
    };
    Error::new(stage, cause)
}

/// Without a certificate the server misses one; with one it is the one that it does not like.
fn client_certificate(alert: u8, session: &Session) -> Cause {
    match (session.observation.seen().request, session.has_identity) {
        (Some(ClientAuth::NoIdentity), _) | (None, false) => {
            Cause::ClientCertificateRequired { alert }
        }
        _ => Cause::ClientCertificateRejected { alert: Some(alert) },
    }
}

fn server_certificate(error: &CertificateError) -> Cause {
    use CertificateError as Certificate;
    let reason = error.to_string();
    match error {
        Certificate::UnknownIssuer => Cause::ServerCertificateUntrusted {
            reason: "its issuer is not in the trust list (unable to get local issuer certificate)"
                .to_owned(),
        },
        Certificate::Expired | Certificate::ExpiredContext { .. } => {
            Cause::ServerCertificateExpired { reason }
        }
        Certificate::NotValidForNameContext {
            expected,
            presented,
        } => Cause::ServerNameMismatch {
            expected: expected.to_str().into_owned(),
            presented: presented.iter().map(|name| plain_name(name)).collect(),
        },
        _ => Cause::ServerCertificateInvalid { reason },
    }
}

/// webpki shows names in its own debug form, `DnsName("a.example")`.
fn plain_name(shown: &str) -> String {
    match shown.split_once("(\"") {
        Some((_, rest)) => rest.trim_end_matches("\")").to_owned(),
        None => shown.to_owned(),
    }
}
