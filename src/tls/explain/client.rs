//! Why a server does not take our certificate, as far as its alert and our own eyes tell.

use crate::error::{Cause, Error, Stage};
use crate::tls::handshake::Session;
use crate::tls::identity::Identity;
use crate::tls::observe::ClientAuth;

/// What a server that never asked is likely to miss.
pub const NOT_ASKED: &str = "the server asked for no client certificate in the handshake, so none \
     was sent: it has to ask (nginx: ssl_verify_client; Apache httpd: SSLVerifyClient for the whole \
     virtual host, since asking later is not supported)";

/// Without a certificate the server misses one; with one it is the one that it does not like.
pub fn refused(alert: u8, stage: Stage, session: &Session) -> Error {
    match (session.request(), session.identity()) {
        (Some(ClientAuth::NoIdentity), _) | (None, None) => {
            Error::new(stage, Cause::ClientCertificateRequired { alert })
        }
        (Some(ClientAuth::NoCommonScheme), _) => no_common_scheme(Some(alert), stage, session),
        (None, Some(_)) if session.was_not_asked() => {
            let alert = Some(alert);
            Error::new(stage, Cause::ClientCertificateRejected { alert }).with_hint(NOT_ASKED)
        }
        (_, Some(identity)) => rejected(alert, stage, identity, session),
        (Some(ClientAuth::Sent), None) => {
            let alert = Some(alert);
            Error::new(stage, Cause::ClientCertificateRejected { alert })
        }
    }
}

/// The server asked for a certificate and accepts no signature that the identity's key can make.
pub fn no_common_scheme(alert: Option<u8>, stage: Stage, session: &Session) -> Error {
    let error = Error::new(stage, Cause::ClientCertificateRejected { alert });
    match session.identity() {
        Some(identity) => error.with_hint(format!(
            "the server accepts no signature that the key in {} can make: use a key of another \
             kind in {} and {}, or let the server accept more signature algorithms",
            identity.key_option, identity.certificate_option, identity.key_option
        )),
        None => error,
    }
}

/// certificate_revoked, certificate_expired and unknown_ca (RFC 8446, 6.2) say what it is. Other
/// alerts do not, and what can be seen from here does.
fn rejected(alert: u8, stage: Stage, identity: &Identity, session: &Session) -> Error {
    const REVOKED: u8 = 44;
    const EXPIRED: u8 = 45;
    const UNKNOWN_CA: u8 = 48;
    let (cause, hint) = if alert == REVOKED {
        (Cause::ClientCertificateRevoked { alert }, revoked(identity))
    } else if alert == EXPIRED || identity.leaf.has_expired() {
        (Cause::ClientCertificateExpired { alert }, expired(identity))
    } else if alert == UNKNOWN_CA || is_of_unknown_ca(identity, session) {
        let hint = unknown_ca(identity, session);
        (Cause::ClientCertificateUnknownCa { alert }, hint)
    } else {
        let alert = Some(alert);
        (Cause::ClientCertificateRejected { alert }, other(identity))
    };
    Error::new(stage, cause).with_hint(hint)
}

/// The hint for a server that closed after it got the certificate, and said nothing.
pub fn closed_on(session: &Session) -> String {
    let reason = match session.identity() {
        Some(identity) if identity.leaf.has_expired() => expired(identity),
        Some(identity) if is_of_unknown_ca(identity, session) => unknown_ca(identity, session),
        _ => "check ssl_cert, and the server's log".to_owned(),
    };
    format!(
        "the server closed the connection after it was sent the client certificate, which may be \
         why: {reason}"
    )
}

/// Whether the server has announced the CAs that it accepts, and none of them issued any
/// certificate of ours.
fn is_of_unknown_ca(identity: &Identity, session: &Session) -> bool {
    let authorities = session.authorities();
    !authorities.is_empty()
        && !authorities
            .iter()
            .any(|name| identity.chain().any(|found| found.issuer_is(name)))
}

fn revoked(identity: &Identity) -> String {
    format!(
        "the CA {} has withdrawn the client certificate in {} (subject {}, serial number {}): get a \
         new one",
        identity.leaf.issuer,
        identity.certificate_option,
        identity.leaf.subject,
        identity.leaf.serial
    )
}

fn expired(identity: &Identity) -> String {
    let (option, leaf) = (identity.certificate_option, &identity.leaf);
    if leaf.has_expired() {
        return format!(
            "the client certificate in {option} ({}) has expired (valid until {}): renew it",
            leaf.subject, leaf.not_after
        );
    }
    format!(
        "by this machine's clock, the client certificate in {option} ({}) is valid until {}: compare \
         the clock with the server's, and check the CAs behind it",
        leaf.subject, leaf.not_after
    )
}

fn unknown_ca(identity: &Identity, session: &Session) -> String {
    let option = identity.certificate_option;
    let last = identity.chain().last().unwrap_or(&identity.leaf);
    let authorities = session.authorities();
    let accepted: Vec<&str> = authorities.iter().map(|name| name.text.as_str()).collect();
    let accepted = match accepted.as_slice() {
        [] => "the server does not say which CAs it accepts".to_owned(),
        names => format!("the server accepts {}", names.join("; ")),
    };
    format!(
        "your certificate in {option} is issued by {}; {accepted}. Have the server trust that CA, put \
         the intermediate CA behind the certificate in {option} if that is missing, or use a \
         certificate of a CA that the server accepts",
        last.issuer
    )
}

fn other(identity: &Identity) -> String {
    let (option, leaf) = (identity.certificate_option, &identity.leaf);
    if !leaf.allows_client_auth() {
        return format!(
            "the client certificate in {option} ({}) is not made for clients: its extended key usage \
             lacks clientAuth. Get one that has it",
            leaf.subject
        );
    }
    if leaf.is_not_yet_valid() {
        return format!(
            "the client certificate in {option} ({}) is not valid before {}: check the clock, or \
             wait",
            leaf.subject, leaf.not_before
        );
    }
    format!(
        "check the client certificate in {option} (subject {}, issued by {}, valid from {} until \
         {}): the server has to trust its issuer, intermediate CAs have to stand behind it, and it \
         must not be revoked; the server's log says more",
        leaf.subject, leaf.issuer, leaf.not_before, leaf.not_after
    )
}
