//! The one error type, and every text that users see.
//!
//! An [`Error`] becomes three values in Lua: `nil`, the message, and `{code, stage, alert, hint}`.

mod hint;
mod text;

use std::borrow::Cow;
use std::io;

pub use text::AlertName;

use crate::http1::{Malformed, RequestError};

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    stage: Stage,
    cause: Cause,
    hint: Option<Cow<'static, str>>,
}

/// The step of a request in which an error happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading the caller's options; nothing has been sent.
    Options,
    /// Looking up the host name.
    Resolve,
    /// The TCP or unix-socket connection.
    Connect,
    /// The tunnel through a proxy.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// Writing the request.
    Send,
    /// Reading the response head.
    Response,
    /// Reading the response body.
    Body,
}

/// A variant for each cause; [`Cause::code`] is its name in Lua.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts below say what each variant means")]
pub enum Cause {
    BadArgument(Cow<'static, str>),
    BadRequest(RequestError),
    BadCertificatePem {
        option: &'static str,
        reason: String,
    },
    BadKeyPem {
        option: &'static str,
        reason: String,
    },
    Unreadable {
        option: &'static str,
        path: String,
        reason: String,
    },
    NoSystemTrust,
    KeyMismatch {
        certificate: &'static str,
        key: &'static str,
    },
    BadPkcs12 {
        option: &'static str,
        reason: String,
    },
    BadCrl {
        option: &'static str,
        reason: String,
    },
    KeyEncrypted {
        option: &'static str,
        /// In OpenSSL's own form, which came before PKCS#8.
        is_legacy: bool,
    },
    KeyPassphraseWrong {
        option: &'static str,
    },
    DnsFailed {
        host: String,
        reason: String,
    },
    ConnectRefused {
        address: String,
    },
    ConnectFailed {
        address: String,
        reason: String,
    },
    ProxyRefused {
        status: u16,
    },
    TooManyWaiting,
    /// The stage says which time ran out.
    Timeout,
    Closed,
    ServerCertificateUntrusted {
        reason: String,
    },
    ServerCertificateExpired {
        reason: String,
    },
    ServerCertificateNotYetValid {
        reason: String,
    },
    ServerNameMismatch {
        expected: String,
        presented: Vec<String>,
    },
    ServerCertificateRevoked,
    ServerRevocationUnknown {
        reason: String,
    },
    ServerCertificateInvalid {
        reason: String,
    },
    ServerKeyNotPinned {
        pin: String,
    },
    ClientCertificateRequired {
        alert: u8,
    },
    ClientCertificateExpired {
        alert: u8,
    },
    ClientCertificateRevoked {
        alert: u8,
    },
    ClientCertificateUnknownCa {
        alert: u8,
    },
    ClientCertificateRejected {
        alert: Option<u8>,
    },
    TlsNoCommonCipher {
        reason: String,
        alert: Option<u8>,
    },
    TlsProtocolVersion {
        reason: String,
        alert: Option<u8>,
    },
    /// A fatal alert that says nothing about certificates, or a breach of TLS.
    Tls {
        reason: String,
        alert: Option<u8>,
    },
    Http2Unsupported {
        /// What the server did instead.
        chosen: String,
    },
    /// The server gave up on one request (RFC 9113, 5.4.2).
    Http2Reset {
        reason: String,
    },
    /// The server gave up on the connection (RFC 9113, 5.4.1).
    Http2GoneAway {
        reason: String,
    },
    HttpMalformed {
        reason: String,
    },
    HttpTooLarge {
        limit: &'static str,
    },
    Internal(Cow<'static, str>),
}

impl Error {
    /// An error with the hint that goes with its cause.
    pub fn new(stage: Stage, cause: Cause) -> Self {
        let hint = cause.hint(stage);
        Self { stage, cause, hint }
    }

    /// An option that cannot be what it is.
    pub fn bad_argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Stage::Options, Cause::BadArgument(message.into()))
    }

    /// A request body that is not what its head has announced.
    pub fn bad_body(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Stage::Send, Cause::BadArgument(message.into()))
            .with_hint("correct the iterator that was given as the request's body")
    }

    /// A defect of this library.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Stage::Options, Cause::Internal(message.into()))
    }

    /// A panic has ended the operation, or the thread that it was on.
    pub fn ended(stage: Stage) -> Self {
        let what = "a panic has ended the operation; see standard error";
        Self::new(stage, Cause::Internal(what.into())).with_hint(
            "call again, unless the server must not be asked twice: it may have done what it was \
             asked for. Please report this, with what standard error (nginx's error log) says",
        )
    }

    /// The time of `stage` ran out.
    pub fn timeout(stage: Stage) -> Self {
        Self::new(stage, Cause::Timeout)
    }

    /// The peer closed or reset the connection.
    pub fn closed(stage: Stage) -> Self {
        Self::new(stage, Cause::Closed)
    }

    /// There is no connection to do something on.
    pub fn not_connected() -> Self {
        Self::closed(Stage::Send).with_hint("there is no open connection: call connect first")
    }

    /// Replaces the general hint by one that knows more.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The cause.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The code: snake case, stable, one for each cause.
    pub fn code(&self) -> &'static str {
        self.cause.code(self.stage)
    }

    /// Whether the server took too long to answer.
    pub fn is_read_timeout(&self) -> bool {
        self.cause == Cause::Timeout && matches!(self.stage, Stage::Response | Stage::Body)
    }

    /// The stage, as Lua sees it.
    pub fn stage(&self) -> &'static str {
        match self.stage {
            Stage::Options => "options",
            Stage::Resolve => "resolve",
            Stage::Connect => "connect",
            Stage::Proxy => "proxy",
            Stage::Tls => "tls",
            Stage::Send => "send",
            Stage::Response => "response",
            Stage::Body => "body",
        }
    }

    /// The number of the TLS alert that the server sent (RFC 8446, section 6).
    pub fn alert(&self) -> Option<u8> {
        match self.cause {
            Cause::ClientCertificateRequired { alert }
            | Cause::ClientCertificateExpired { alert }
            | Cause::ClientCertificateRevoked { alert }
            | Cause::ClientCertificateUnknownCa { alert } => Some(alert),
            Cause::ClientCertificateRejected { alert }
            | Cause::TlsNoCommonCipher { alert, .. }
            | Cause::TlsProtocolVersion { alert, .. }
            | Cause::Tls { alert, .. } => alert,
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// Whether the process, or the system, has no file descriptor left.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl Cause {
    /// Whether there was no file descriptor left.
    pub fn is_exhaustion(&self) -> bool {
        let reason = match self {
            Self::Unreadable { reason, .. }
            | Self::ConnectFailed { reason, .. }
            | Self::DnsFailed { reason, .. } => reason,
            Self::Internal(reason) => &**reason,
            _ => return false,
        };
        let says = |code| reason.contains(&io::Error::from_raw_os_error(code).to_string());
        says(libc::EMFILE) || says(libc::ENFILE)
    }

    fn code(&self, stage: Stage) -> &'static str {
        match self {
            Self::BadArgument(_) | Self::BadRequest(_) => "bad_argument",
            Self::BadCertificatePem { .. } => "bad_certificate_pem",
            Self::BadKeyPem { .. } => "bad_key_pem",
            Self::Unreadable { option, .. } if option.contains("key") => "bad_key_pem",
            Self::BadPkcs12 { .. }
            | Self::Unreadable {
                option: "ssl_pkcs12",
                ..
            } => "bad_pkcs12",
            Self::BadCrl { .. }
            | Self::Unreadable {
                option: "ssl_crl", ..
            } => "bad_crl",
            Self::Unreadable { .. } | Self::NoSystemTrust => "bad_certificate_pem",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::KeyEncrypted { .. } => "key_encrypted",
            Self::KeyPassphraseWrong { .. } => "key_passphrase_wrong",
            Self::DnsFailed { .. } => "dns_failed",
            Self::ConnectRefused { .. } => "connect_refused",
            Self::ConnectFailed { .. } => "connect_failed",
            Self::ProxyRefused { .. } => "proxy_refused",
            Self::TooManyWaiting => "too_many_waiting",
            Self::Timeout => match stage {
                Stage::Options | Stage::Resolve | Stage::Connect | Stage::Proxy => {
                    "connect_timeout"
                }
                Stage::Tls => "tls_timeout",
                Stage::Send => "send_timeout",
                Stage::Response | Stage::Body => "read_timeout",
            },
            Self::Closed => "closed",
            Self::ServerCertificateUntrusted { .. } => "server_certificate_untrusted",
            Self::ServerCertificateExpired { .. } => "server_certificate_expired",
            Self::ServerCertificateNotYetValid { .. } => "server_certificate_not_yet_valid",
            Self::ServerNameMismatch { .. } => "server_name_mismatch",
            Self::ServerCertificateRevoked => "server_certificate_revoked",
            Self::ServerRevocationUnknown { .. } => "server_revocation_unknown",
            Self::ServerCertificateInvalid { .. } => "server_certificate_invalid",
            Self::ServerKeyNotPinned { .. } => "server_key_not_pinned",
            Self::ClientCertificateRequired { .. } => "client_certificate_required",
            Self::ClientCertificateExpired { .. } => "client_certificate_expired",
            Self::ClientCertificateRevoked { .. } => "client_certificate_revoked",
            Self::ClientCertificateUnknownCa { .. } => "client_certificate_unknown_ca",
            Self::ClientCertificateRejected { .. } => "client_certificate_rejected",
            Self::TlsNoCommonCipher { .. } => "tls_no_common_cipher",
            Self::TlsProtocolVersion { .. } => "tls_protocol_version",
            Self::Tls { .. } => "tls_alert",
            Self::Http2Unsupported { .. } => "http2_unsupported",
            Self::Http2Reset { .. } => "http2_reset",
            Self::Http2GoneAway { .. } => "http2_gone_away",
            Self::HttpMalformed { .. } => "http_malformed",
            Self::HttpTooLarge { .. } => "http_too_large",
            Self::Internal(_) => "internal",
        }
    }
}

impl std::error::Error for Error {}

impl From<RequestError> for Error {
    fn from(error: RequestError) -> Self {
        Self::new(Stage::Options, Cause::BadRequest(error))
    }
}

impl Error {
    /// A response that breaks HTTP, or is larger than allowed.
    pub fn malformed(stage: Stage, malformed: &Malformed) -> Self {
        let cause = match malformed {
            Malformed::HeadTooLarge { limit } => Cause::HttpTooLarge { limit },
            other => Cause::HttpMalformed {
                reason: other.to_string(),
            },
        };
        Self::new(stage, cause)
    }
}
