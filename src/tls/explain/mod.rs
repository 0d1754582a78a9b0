//! From TLS failures to causes: which side refused, and what the caller can do about it.

mod client;
mod server;

use std::io;

use rustls::{AlertDescription, InvalidMessage, PeerIncompatible, PeerMisbehaved};

use super::config::Protocols;
use super::handshake::Session;
use super::observe::ClientAuth;
use crate::error::{AlertName, Cause, Error, Stage};

pub use client::no_common_scheme;

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
    match session.request() {
        Some(ClientAuth::NoIdentity) if stage != Stage::Body => error.with_hint(
            "the server asked for a client certificate and none was given, which may be why it \
             closed the connection: set ssl_cert and ssl_key",
        ),
        Some(ClientAuth::Sent | ClientAuth::NoCommonScheme) if stage != Stage::Body => {
            error.with_hint(client::closed_on(session))
        }
        None if stage != Stage::Body && session.identity().is_some() && session.was_not_asked() => {
            error.with_hint(client::NOT_ASKED)
        }
        _ => error,
    }
}

fn tls_error(error: &rustls::Error, stage: Stage, session: &Session) -> Error {
    use rustls::Error as Tls;
    match error {
        Tls::AlertReceived(alert) => received(*alert, stage, session),
        // Of ssl_crl, once it is needed: its signature is not that of the CA that it names.
        Tls::InvalidCertRevocationList(error) => Error::new(
            stage,
            Cause::ServerRevocationUnknown {
                reason: format!("a revocation list in ssl_crl cannot be used: {error:?}"),
            },
        ),
        Tls::InvalidCertificate(error) => server::certificate(error, stage, session),
        Tls::PeerIncompatible(
            reason @ (PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig),
        ) => version(
            stage,
            None,
            format!("the server speaks no TLS version that we do: {reason:?}"),
            session,
        ),
        Tls::PeerIncompatible(reason) => Error::new(
            stage,
            Cause::TlsNoCommonCipher {
                reason: format!("the server does not support what we do: {reason:?}"),
                alert: None,
            },
        ),
        // Some servers choose what they like best, offered or not.
        Tls::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol)
            if session.facts.protocols == Protocols::Http2 =>
        {
            let chosen = "it chose a protocol that was not offered".to_owned();
            Error::new(stage, Cause::Http2Unsupported { chosen })
        }
        // An http port answers a ClientHello with text, which is no TLS record. What comes behind
        // the server's certificate is of one who speaks TLS.
        Tls::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
        ) if stage == Stage::Tls && session.version().is_none() => version(
            stage,
            None,
            "the server does not speak TLS on this port".to_owned(),
            session,
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

fn version(stage: Stage, alert: Option<u8>, reason: String, session: &Session) -> Error {
    let error = Error::new(stage, Cause::TlsProtocolVersion { reason, alert });
    match session.facts.version_option {
        Some(option) => error.with_hint(format!(
            "the server may speak the version that {option} excludes: change {option}, or enable \
             that version on the server; and check that the port speaks TLS"
        )),
        None => error,
    }
}

/// A fatal alert from the server (RFC 8446, 6.2; RFC 5246, 7.2.2).
fn received(alert: AlertDescription, stage: Stage, session: &Session) -> Error {
    let number = u8::from(alert);
    // A TLS 1.2 server has judged the certificate when the handshake is done.
    let is_judged = session.is_established() && session.version() == Some("TLSv1.2");
    let requested = session.request().is_some() && !is_judged;
    match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::NoCertificate
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => client::refused(number, stage, session),
        // TLS 1.2 servers use these for a missing or bad certificate as well: OpenSSL
        // handshake_failure, GnuTLS decode_error for an empty certificate, OpenSSL
        // illegal_parameter for a key on a curve that it does not take.
        AlertDescription::HandshakeFailure
        | AlertDescription::DecryptError
        | AlertDescription::DecodeError
        | AlertDescription::IllegalParameter
            if requested =>
        {
            client::refused(number, stage, session)
        }
        // Before the server has said anything else, it found nothing in common (RFC 8446, 4.1.1).
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity
            if !session.is_established() =>
        {
            Error::new(
                stage,
                Cause::TlsNoCommonCipher {
                    reason: format!(
                        "the server supports no cipher suite, group or signature that we do ({})",
                        AlertName(number)
                    ),
                    alert: Some(number),
                },
            )
        }
        AlertDescription::ProtocolVersion => version(
            stage,
            Some(number),
            format!(
                "the server speaks no TLS version that we do ({})",
                AlertName(number)
            ),
            session,
        ),
        // What RFC 7301, 3.2 wants of a server that has nothing of what was offered.
        AlertDescription::NoApplicationProtocol if session.facts.protocols == Protocols::Http2 => {
            let chosen = format!("it offers no h2 ({})", AlertName(number));
            Error::new(stage, Cause::Http2Unsupported { chosen })
        }
        _ => {
            let cause = Cause::Tls {
                reason: format!("the server refused ({})", AlertName(number)),
                alert: Some(number),
            };
            match hint_for(alert, is_judged) {
                Some(hint) => Error::new(stage, cause).with_hint(hint),
                None => Error::new(stage, cause),
            }
        }
    }
}

fn hint_for(alert: AlertDescription, is_judged: bool) -> Option<&'static str> {
    match alert {
        AlertDescription::HandshakeFailure | AlertDescription::NoRenegotiation if is_judged => {
            Some(
                "the server wanted another handshake for this request, most likely to ask for a \
                 client certificate: renegotiation is not supported, so have it ask in the first \
                 handshake (Apache httpd: SSLVerifyClient for the whole virtual host)",
            )
        }
        AlertDescription::UnrecognisedName => Some(
            "the server knows no host of this name: check host, or the name to ask for in \
             ssl_server_name",
        ),
        AlertDescription::NoApplicationProtocol => {
            Some("the server does not offer http/1.1 on this port (ALPN, RFC 7301)")
        }
        _ => None,
    }
}
