//! Judging a server's certificate: by its chain, by the caller's own copy of it, by its pin.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};

use super::certificate::Certificate;
use super::observe;
use super::pin::Pins;
use super::trust::Trust;

/// See the module.
#[derive(Debug)]
pub struct ServerVerifier {
    /// How its chain is judged; `None` with `ssl_verify = false`.
    pub judge: Option<Judge>,
    /// Keys that the server may have.
    pub pins: Pins,
    /// Where signatures are checked.
    pub provider: Arc<CryptoProvider>,
}

/// Judges by trust anchors and revocation lists.
#[derive(Debug)]
pub struct Judge {
    /// Whom to trust.
    pub trust: Arc<Trust>,
    /// The chain's judge, if there is any CA to trust.
    pub webpki: Option<Arc<WebPkiServerVerifier>>,
}

/// The server's key is none of those that are pinned; it has this pin.
#[derive(Debug)]
pub struct NotPinned(pub String);

impl std::fmt::Display for NotPinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server's key is not pinned")
    }
}

impl std::error::Error for NotPinned {}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        observe::note(|seen| {
            let presented = std::iter::once(end_entity).chain(intermediates);
            seen.chain = presented.map(|der| der.clone().into_owned()).collect();
        });
        if let Some(judge) = &self.judge {
            if judge.trust.themselves.contains(end_entity) {
                check_itself(end_entity, server_name, now)?;
            } else if let Some(webpki) = &judge.webpki {
                let judged = webpki.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    ocsp_response,
                    now,
                );
                judged.map_err(|error| plain_cause(error, end_entity))?;
            } else {
                return Err(CertificateError::UnknownIssuer.into());
            }
        }
        match self.pins.check(end_entity) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(pin) => Err(CertificateError::Other(OtherError(Arc::new(NotPinned(pin)))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Some reasons that webpki gives for not finding a way to an anchor are about the last thing that it
/// tried: a CA of the right name with another key, or a root of version 1 that the server has sent.
/// And of a certificate that nobody but itself vouches for it says that it calls itself a CA.
fn plain_cause(error: rustls::Error, end_entity: &CertificateDer<'_>) -> rustls::Error {
    let is_about_issuer = match &error {
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => true,
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            match other.to_string().as_str() {
                "UnsupportedCertVersion" => ParsedCertificate::try_from(end_entity).is_ok(),
                "CaUsedAsEndEntity" => {
                    Certificate::parse(end_entity).is_some_and(|facts| facts.self_signed)
                }
                _ => false,
            }
        }
        _ => false,
    };
    match is_about_issuer {
        true => CertificateError::UnknownIssuer.into(),
        false => error,
    }
}

/// What is left to check of a certificate that is trusted itself. webpki would take it for a CA that
/// acts as a server, or for one that nobody vouches for.
fn check_itself(
    certificate: &CertificateDer<'_>,
    server_name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), rustls::Error> {
    let facts = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
    if facts.is_not_yet_valid() {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before: facts.not_before.unix(),
        }
        .into());
    }
    if facts.has_expired() {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after: facts.not_after.unix(),
        }
        .into());
    }
    verify_server_name(&ParsedCertificate::try_from(certificate)?, server_name)
}
