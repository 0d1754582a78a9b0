//! What to do about an error, as far as its cause alone can tell.

use std::borrow::Cow;

use super::{Cause, Stage};
use crate::http1::RequestError;

impl Cause {
    pub(super) fn hint(&self, stage: Stage) -> Option<Cow<'static, str>> {
        if self.is_exhaustion() {
            return Some(
                "no file descriptor is left: raise worker_rlimit_nofile (ulimit -n), or keep fewer \
                 connections"
                    .into(),
            );
        }
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
                "{option} takes one PEM key: PKCS#8, PKCS#1 or SEC1; RSA of at least 2048 bits, \
                 ECDSA P-256, P-384 or P-521, or Ed25519"
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
            Self::KeyMismatch { certificate, key } if certificate == key => {
                format!("make {key} anew: the key in it belongs to none of its certificates").into()
            }
            Self::KeyMismatch { certificate, key } => format!(
                "give the {key} that belongs to a certificate in {certificate}: their public keys \
                 differ (compare `openssl x509 -noout -pubkey` with `openssl pkey -pubout`)"
            )
            .into(),
            Self::BadPkcs12 { option, .. } => format!(
                "{option} takes the bytes or the path of a PKCS#12 file (.p12, .pfx) with one \
                 private key: openssl pkcs12 -export -inkey KEY -in CERTIFICATES -out FILE"
            )
            .into(),
            Self::BadCrl { option, .. } => format!(
                "{option} takes PEM: blocks that begin with -----BEGIN X509 CRL-----; version 2, \
                 with the extensions authorityKeyIdentifier and crlNumber (RFC 5280, 5.2)"
            )
            .into(),
            Self::KeyEncrypted {
                is_legacy: false, ..
            } => "give its passphrase in ssl_key_password".into(),
            Self::KeyEncrypted {
                is_legacy: true, ..
            } => "convert the key to PKCS#8, and give its \
                 passphrase in ssl_key_password: openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out \
                 NEW_KEY"
                .into(),
            Self::KeyPassphraseWrong { option } => {
                format!("check ssl_key_password: it does not open the key in {option}").into()
            }
            Self::DnsFailed { .. } => "check the host name and the resolver of this machine".into(),
            Self::ConnectRefused { .. } => {
                "nothing listens at this address: check host and port, and that the server runs"
                    .into()
            }
            Self::ConnectFailed { .. } => {
                "check the route to the server and firewalls, or the path of a unix socket".into()
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
            Self::ServerCertificateRevoked => "its CA has withdrawn it: do not trust this server \
                 until it has a new certificate"
                .into(),
            Self::ServerRevocationUnknown { .. } => "ssl_crl needs a current revocation list of \
                 every CA in the server's chain"
                .into(),
            Self::ServerKeyNotPinned { .. } => "if the server has a new key that is meant to be, \
                 add its pin to ssl_pinned_pubkey; otherwise somebody else answers in its name"
                .into(),
            Self::ServerCertificateInvalid { .. } => "the server's certificate needs to be \
                 reissued, or its chain configured completely"
                .into(),
            Self::ClientCertificateRequired { .. } => "the server demands a client certificate: \
                 set ssl_cert and ssl_key"
                .into(),
            Self::ClientCertificateExpired { .. } => {
                "renew the client certificate in ssl_cert, or \
                 check the clock of this machine and of the server"
                    .into()
            }
            Self::ClientCertificateRevoked { .. } => "its CA has withdrawn the client certificate \
                 in ssl_cert: get a new one"
                .into(),
            Self::ClientCertificateUnknownCa { .. } => "the server does not trust the CA that \
                 issued the client certificate in ssl_cert, or its intermediate CA is missing \
                 behind it: add the CA to the server's list of client CAs, the intermediate to \
                 ssl_cert, or use a certificate of a CA that the server accepts"
                .into(),
            Self::ClientCertificateRejected { .. } => "the server does not accept the client \
                 certificate: check in ssl_cert that it is issued by a CA that the server trusts, \
                 has not expired, has its intermediate CAs behind it, and allows clientAuth"
                .into(),
            Self::TlsNoCommonCipher { .. } => "the server has to allow one of our cipher suites \
                 (TLS 1.3, or in TLS 1.2 ECDHE with AES-GCM or ChaCha20-Poly1305), a group such as \
                 X25519 or P-256, and a certificate with an RSA, ECDSA or Ed25519 key"
                .into(),
            Self::TlsProtocolVersion { .. } => {
                "TLS 1.2 and 1.3 are supported: enable one of them on the server, and check that \
                 the port speaks TLS"
                    .into()
            }
            Self::Tls { .. } => "see the server's log for the reason".into(),
            Self::Http2Unsupported { .. } => "have the server offer it (nginx: `http2 on;`, before \
                 1.25.1 `listen … ssl http2;`; Apache httpd: `Protocols h2 http/1.1`), or set \
                 http_version to \"auto\" or 1.1"
                .into(),
            Self::Http2Reset { .. } => {
                "the server, or a proxy in front of it, gave up on this request: see its log".into()
            }
            Self::Http2GoneAway { .. } => {
                "the server found fault with the connection (HTTP/2 GOAWAY): see its log".into()
            }
            Self::HttpMalformed { .. } => {
                "the server's response breaks HTTP (RFC 9112, for HTTP/2 RFC 9113) and was not used; the \
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
