//! What an error says.
//!
//! Messages begin with the phrases that callers of resty.http match on (`handshake failed`,
//! `connection refused`, `certificate host mismatch`, `failed to parse domain`). `timeout` and
//! `closed` are whole messages, since callers compare them with `==`; what is behind them is in
//! the code and the hint.

use std::fmt;

use super::{Cause, Error};

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::BadArgument(message) => f.write_str(message),
            Cause::BadRequest(error) => error.fmt(f),
            Cause::BadCertificatePem { option, reason } => {
                write!(f, "bad certificate in '{option}': {reason}")
            }
            Cause::BadKeyPem { option, reason } => {
                write!(f, "bad private key in '{option}': {reason}")
            }
            Cause::Unreadable {
                option,
                path,
                reason,
            } => write!(
                f,
                "cannot read the file {path} given in '{option}': {reason}"
            ),
            Cause::NoSystemTrust => f.write_str("the system has no CA bundle to trust"),
            Cause::KeyMismatch { certificate, key } => write!(
                f,
                "key mismatch: '{key}' is not the key of the certificate in '{certificate}'"
            ),
            Cause::BadPkcs12 { option, reason } => {
                write!(f, "bad PKCS#12 file in '{option}': {reason}")
            }
            Cause::BadCrl { option, reason } => {
                write!(f, "bad revocation list (CRL) in '{option}': {reason}")
            }
            Cause::KeyEncrypted {
                option,
                is_legacy: false,
            } => {
                write!(f, "bad private key in '{option}': it is encrypted")
            }
            Cause::KeyEncrypted {
                option,
                is_legacy: true,
            } => write!(
                f,
                "bad private key in '{option}': it is encrypted in a form that is not supported \
                 (Proc-Type: 4,ENCRYPTED)"
            ),
            Cause::KeyPassphraseWrong { option } => {
                write!(f, "bad private key in '{option}': the passphrase is wrong")
            }
            Cause::DnsFailed { host, reason } => write!(
                f,
                "failed to parse domain: {host}, error: could not be resolved: {reason}"
            ),
            Cause::ConnectRefused { address } => write!(f, "connection refused: {address}"),
            Cause::ConnectFailed { address, reason } => {
                write!(f, "failed to connect to {address}: {reason}")
            }
            Cause::ProxyRefused { status } => {
                write!(f, "failed to establish a tunnel through a proxy: {status}")
            }
            Cause::TooManyWaiting => f.write_str("too many waiting connect operations"),
            Cause::Timeout => f.write_str("timeout"),
            Cause::Closed => f.write_str("closed"),
            Cause::ServerCertificateUntrusted { reason } => write!(
                f,
                "handshake failed: certificate verify failed: the server's certificate is not \
                 trusted: {reason}"
            ),
            Cause::ServerCertificateExpired { reason } => write!(
                f,
                "handshake failed: certificate verify failed: the server's certificate has \
                 expired: {reason}"
            ),
            Cause::ServerCertificateNotYetValid { reason } => write!(
                f,
                "handshake failed: certificate verify failed: the server's certificate is not \
                 valid yet: {reason}"
            ),
            Cause::ServerNameMismatch {
                expected,
                presented,
            } => {
                write!(
                    f,
                    "certificate host mismatch: handshake failed: the server's certificate "
                )?;
                match presented.as_slice() {
                    [] => write!(f, "has no subjectAltName, expected {expected}"),
                    names => write!(f, "is for {}, not for {expected}", names.join(", ")),
                }
            }
            Cause::ServerCertificateRevoked => f.write_str(
                "handshake failed: certificate verify failed: the server's certificate, or a CA of \
                 its chain, has been revoked",
            ),
            Cause::ServerRevocationUnknown { reason } => write!(
                f,
                "handshake failed: certificate verify failed: whether the server's certificate has \
                 been revoked is unknown: {reason}"
            ),
            Cause::ServerKeyNotPinned { pin } => write!(
                f,
                "handshake failed: the server's public key is not one of ssl_pinned_pubkey: it is \
                 {pin}"
            ),
            Cause::ServerCertificateInvalid { reason } => write!(
                f,
                "handshake failed: certificate verify failed: the server's certificate is \
                 invalid: {reason}"
            ),
            Cause::ClientCertificateRequired { alert } => write!(
                f,
                "handshake failed: the server requires a client certificate and none was sent \
                 ({})",
                AlertName(*alert)
            ),
            Cause::ClientCertificateExpired { alert } => write!(
                f,
                "handshake failed: the server rejected the client certificate, which has expired \
                 ({})",
                AlertName(*alert)
            ),
            Cause::ClientCertificateRevoked { alert } => write!(
                f,
                "handshake failed: the server rejected the client certificate, which has been \
                 revoked ({})",
                AlertName(*alert)
            ),
            Cause::ClientCertificateUnknownCa { alert } => write!(
                f,
                "handshake failed: the server rejected the client certificate, whose CA it does \
                 not know ({})",
                AlertName(*alert)
            ),
            Cause::ClientCertificateRejected { alert: Some(alert) } => write!(
                f,
                "handshake failed: the server rejected the client certificate ({})",
                AlertName(*alert)
            ),
            Cause::ClientCertificateRejected { alert: None } => f.write_str(
                "handshake failed: the server accepts no signature that the client certificate's \
                 key can make",
            ),
            Cause::TlsNoCommonCipher { reason, .. }
            | Cause::TlsProtocolVersion { reason, .. }
            | Cause::Tls { reason, .. } => write!(f, "handshake failed: {reason}"),
            Cause::Http2Unsupported { chosen } => {
                write!(f, "the server does not speak HTTP/2: {chosen}")
            }
            Cause::Http2Reset { reason } => write!(f, "the server reset the stream: {reason}"),
            Cause::Http2GoneAway { reason } => {
                write!(f, "the server ended the connection: {reason}")
            }
            // As resty.http says it, word for word.
            Cause::HttpMalformed { reason } if reason.starts_with("couldn't parse") => {
                f.write_str(reason)
            }
            Cause::HttpMalformed { reason } => write!(f, "malformed response: {reason}"),
            Cause::HttpTooLarge { limit } => write!(f, "response too large: over {limit}"),
            Cause::Internal(reason) => write!(f, "internal error: {reason}"),
        }
    }
}

/// `TLS alert 116, certificate_required` (the IANA registry of TLS alerts).
pub struct AlertName(pub u8);

impl fmt::Display for AlertName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            22 => "record_overflow",
            40 => "handshake_failure",
            41 => "no_certificate",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            _ => return write!(f, "TLS alert {}", self.0),
        };
        write!(f, "TLS alert {}, {name}", self.0)
    }
}
