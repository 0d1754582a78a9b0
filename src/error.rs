//! The one error type, and every text that users see.
//!
//! An [`Error`] becomes three values in Lua: `nil`, the message, and `{code, stage, alert, hint}`.
//! Messages begin with the phrases that callers of resty.http match on (`handshake failed`,
//! `connection refused`, `certificate host mismatch`, `failed to parse domain`). `timeout` and
//! `closed` are whole messages, since callers compare them with `==`; what is behind them is in
//! the code and the hint.

use std::borrow::Cow;
use std::fmt;

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
    KeyEncrypted {
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
    ServerCertificateInvalid {
        reason: String,
    },
    ClientCertificateRequired {
        alert: u8,
    },
    ClientCertificateRejected {
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
            Cause::ClientCertificateRequired { alert } => Some(alert),
            Cause::ClientCertificateRejected { alert }
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

impl Cause {
    fn code(&self, stage: Stage) -> &'static str {
        match self {
            Self::BadArgument(_) | Self::BadRequest(_) => "bad_argument",
            Self::BadCertificatePem { .. } => "bad_certificate_pem",
            Self::BadKeyPem { .. } => "bad_key_pem",
            Self::Unreadable { option, .. } if option.contains("key") => "bad_key_pem",
            Self::Unreadable { .. } | Self::NoSystemTrust => "bad_certificate_pem",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::KeyEncrypted { .. } => "key_encrypted",
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
            Self::ServerCertificateInvalid { .. } => "server_certificate_invalid",
            Self::ClientCertificateRequired { .. } => "client_certificate_required",
            Self::ClientCertificateRejected { .. } => "client_certificate_rejected",
            Self::TlsProtocolVersion { .. } => "tls_protocol_version",
            Self::Tls { .. } => "tls_alert",
            Self::HttpMalformed { .. } => "http_malformed",
            Self::HttpTooLarge { .. } => "http_too_large",
            Self::Internal(_) => "internal",
        }
    }

    fn hint(&self, stage: Stage) -> Option<Cow<'static, str>> {
        Some(match self {
            Self::BadArgument(_) => "correct the option that the message names".into(),
            Self::BadRequest(RequestError::Path | RequestError::Query) => {
                "percent-encode what is not allowed in a URI, for example with ngx.escape_uri"
                    .into()
            }
            Self::BadRequest(_) => "correct the request parameter that the message names".into(),
            Self::BadCertificatePem { option, .. } => {
                format!("{option} takes PEM: blocks that begin with -----BEGIN CERTIFICATE-----")
                    .into()
            }
            Self::BadKeyPem { option, .. } => format!(
                "{option} takes one unencrypted PEM key: PKCS#8, PKCS#1 or SEC1; RSA of at least \
                 2048 bits, ECDSA P-256, P-384 or P-521, or Ed25519"
            )
            .into(),
            Self::Unreadable { option, .. } => format!(
                "check the path in {option}, and that the user that nginx's workers run as may \
                 read it"
            )
            .into(),
            Self::NoSystemTrust => "install the package ca-certificates, or give the CAs to trust \
                 in ssl_trusted_certificate"
                .into(),
            Self::KeyMismatch { certificate, key } => format!(
                "give {key} that belongs to the first certificate in {certificate}: their public \
                 keys differ (compare `openssl x509 -noout -pubkey` with `openssl pkey -pubout`)"
            )
            .into(),
            Self::KeyEncrypted { option } => {
                format!("give {option} without a passphrase: openssl pkey -in KEY -out PLAIN_KEY")
                    .into()
            }
            Self::DnsFailed { .. } => "check the host name and the resolver of this machine".into(),
            Self::ConnectRefused { .. } => {
                "nothing listens at this address: check host and port, and that the server runs"
                    .into()
            }
            Self::ConnectFailed { .. } => {
                "check the route to the server and firewalls, the path of a unix socket, and the \
                 limit of open files"
                    .into()
            }
            Self::ProxyRefused { status: 407 } => "the proxy wants credentials: set \
                 https_proxy_authorization in the proxy options"
                .into(),
            Self::ProxyRefused { .. } => {
                "the proxy does not let us connect to this host and port: see its log".into()
            }
            Self::TooManyWaiting => "raise pool_size or backlog, or send fewer requests at a time \
                 to this destination"
                .into(),
            Self::Timeout => match stage {
                Stage::Options | Stage::Resolve | Stage::Connect | Stage::Proxy => {
                    "no connection within the connect timeout: check host, port and firewalls, or \
                     raise it with set_timeouts"
                }
                Stage::Tls => {
                    "the server accepted the connection and did not finish the TLS handshake: \
                     check that the port speaks TLS"
                }
                Stage::Send => "the server stopped reading the request within the send timeout",
                Stage::Response | Stage::Body => {
                    "the server sent nothing more within the read timeout: raise it with \
                     set_timeouts if it may take so long"
                }
            }
            .into(),
            Self::Closed => match stage {
                Stage::Body => "the server closed the connection before the body was complete",
                Stage::Tls => {
                    "the server closed the connection during the TLS handshake: check that the \
                     port speaks TLS, and its log"
                }
                _ => "the server closed the connection: see its log",
            }
            .into(),
            Self::ServerCertificateUntrusted { .. } => {
                "put the CA that issued the server's certificate into ssl_trusted_certificate; if \
                 the server has an intermediate CA, it has to send that certificate too"
                    .into()
            }
            Self::ServerCertificateExpired { .. } => {
                "renew the server's certificate, or check this machine's clock".into()
            }
            Self::ServerCertificateNotYetValid { .. } => {
                "check this machine's clock and the server's: the certificate becomes valid later"
                    .into()
            }
            Self::ServerNameMismatch { presented, .. } if presented.is_empty() => {
                "the server's certificate has no subjectAltName; the common name is not used. \
                 Reissue it with a subjectAltName"
                    .into()
            }
            Self::ServerNameMismatch { presented, .. } => format!(
                "the server's certificate is for {}: set ssl_server_name to one of them if that \
                 is the server you mean",
                presented.join(", ")
            )
            .into(),
            Self::ServerCertificateInvalid { .. } => "the server's certificate needs to be \
                 reissued, or its chain configured completely"
                .into(),
            Self::ClientCertificateRequired { .. } => "the server demands a client certificate: \
                 set ssl_cert and ssl_key"
                .into(),
            Self::ClientCertificateRejected { .. } => "the server does not accept the client \
                 certificate: check in ssl_cert that it is issued by a CA that the server trusts, \
                 has not expired, has its intermediate CAs behind it, and allows clientAuth"
                .into(),
            Self::TlsProtocolVersion { .. } => {
                "TLS 1.2 and 1.3 are supported: enable one of them on the server, and check that \
                 the port speaks TLS"
                    .into()
            }
            Self::Tls { .. } => "see the server's log for the reason".into(),
            Self::HttpMalformed { .. } => {
                "the server's response breaks HTTP/1.1 (RFC 9112) and was not used; the \
                 connection is closed"
                    .into()
            }
            Self::HttpTooLarge { limit } => {
                format!("raise {limit} if the server is right to send so much").into()
            }
            Self::Internal(_) => "this is a defect of lua-resty-mtls: please report it".into(),
        })
    }
}

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
            Cause::KeyEncrypted { option } => {
                write!(f, "bad private key in '{option}': it is encrypted")
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
            Cause::ClientCertificateRejected { alert: Some(alert) } => write!(
                f,
                "handshake failed: the server rejected the client certificate ({})",
                AlertName(*alert)
            ),
            Cause::ClientCertificateRejected { alert: None } => f.write_str(
                "handshake failed: the server accepts no signature that the client certificate's \
                 key can make",
            ),
            Cause::TlsProtocolVersion { reason, .. } | Cause::Tls { reason, .. } => {
                write!(f, "handshake failed: {reason}")
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
