//! TLS: the handshake is rustls', the records after it are ours, so that they may be anything.

use std::io;
use std::sync::Arc;

use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundPlainMessage,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection, SupportedCipherSuite,
};

use crate::script::TlsOptions;
use crate::wire::Wire;

/// Bytes that a record may carry (RFC 8446, 5.1).
pub const RECORD: usize = 16384;

/// Types of records (RFC 8446, B.1).
pub const ALERT: u8 = 21;
/// See [`ALERT`].
pub const APPLICATION_DATA: u8 = 23;

/// The alert that ends a connection in an orderly way (RFC 8446, 6.1).
pub const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// Who the server is.
pub struct Identity(Arc<ServerConfig>);

impl Identity {
    /// Loads what the options name. Sessions are not resumed: each handshake is as long as the others.
    pub fn load(options: &TlsOptions) -> io::Result<Self> {
        let provider = Arc::new(provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[match options.version.as_str() {
                "1.2" => &TLS12,
                _ => &TLS13,
            }])
            .map_err(io::Error::other)?;
        let builder = match &options.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(io::Error::other)?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
            }
        };
        let key = PrivateKeyDer::from_pem_file(&options.key).map_err(io::Error::other)?;
        let mut config = builder
            .with_single_cert(certificates(&options.certificate)?, key)
            .map_err(io::Error::other)?;
        config.enable_secret_extraction = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }
}

/// Without ChaCha20, whose keys of TLS 1.2 have another form.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| !format!("{:?}", suite.suite()).contains("CHACHA20"));
    provider
}

fn certificates(path: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).map_err(io::Error::other)?;
    read.map(|certificate| certificate.map_err(io::Error::other))
        .collect()
}

/// Runs the handshake.
///
/// # Errors
///
/// Why it failed, after the client has been told.
pub fn handshake(identity: &Identity, wire: &mut Wire) -> io::Result<Records> {
    let mut tls = ServerConnection::new(identity.0.clone()).map_err(io::Error::other)?;
    let mut record = Vec::new();
    loop {
        send_pending(&mut tls, wire)?;
        if !tls.is_handshaking() {
            return Records::of(tls);
        }
        // One record at a time: what comes behind the handshake is not for rustls.
        if !read_record(wire, &mut record)? {
            return Err(io::Error::other("the client ended during the handshake"));
        }
        tls.read_tls(&mut record.as_slice())?;
        if let Err(error) = tls.process_new_packets() {
            send_pending(&mut tls, wire)?;
            wire.end(crate::wire::Ending::Close)?;
            return Err(io::Error::other(format!("handshake failed: {error}")));
        }
    }
}

fn send_pending(tls: &mut ServerConnection, wire: &mut Wire) -> io::Result<()> {
    let mut pending = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut pending)?;
    }
    wire.write(&pending)
}

/// Reads a record with its header. False at the end of the connection.
fn read_record(wire: &mut Wire, record: &mut Vec<u8>) -> io::Result<bool> {
    let mut header = [0; HEADER];
    if !wire.read_exact(&mut header)? {
        return Ok(false);
    }
    let [.., high, low] = header;
    record.clear();
    record.extend_from_slice(&header);
    record.resize(HEADER + usize::from(u16::from_be_bytes([high, low])), 0);
    wire.read_exact(&mut record[HEADER..])
}

const HEADER: usize = 5;

/// The record layer after the handshake.
pub struct Records {
    encrypter: Box<dyn MessageEncrypter>,
    decrypter: Box<dyn MessageDecrypter>,
    sent: u64,
    received: u64,
}

impl Records {
    fn of(tls: ServerConnection) -> io::Result<Self> {
        let suite = tls.negotiated_cipher_suite();
        let secrets = tls.dangerous_extract_secrets().map_err(io::Error::other)?;
        let (sent, (key, iv)) = (secrets.tx.0, parts(secrets.tx.1)?);
        let (received, (peer_key, peer_iv)) = (secrets.rx.0, parts(secrets.rx.1)?);
        let (mut encrypter, decrypter) = match suite {
            Some(SupportedCipherSuite::Tls13(suite)) => (
                suite.aead_alg.encrypter(key, iv),
                suite.aead_alg.decrypter(peer_key, peer_iv),
            ),
            // Four bytes of each are the salt, the others the first nonce (RFC 5288, 3).
            Some(SupportedCipherSuite::Tls12(suite)) => {
                let (salt, nonce) = iv.as_ref().split_at(4);
                (
                    suite.aead_alg.encrypter(key, salt, nonce),
                    suite.aead_alg.decrypter(peer_key, &peer_iv.as_ref()[..4]),
                )
            }
            None => return Err(io::Error::other("no cipher suite was chosen")),
        };
        // The Finished of TLS 1.2 had the first nonce. AWS-LC takes what it is given first for that.
        if sent > 0 {
            let _ = encrypter.encrypt(message(APPLICATION_DATA, &[]), 0);
        }
        Ok(Self {
            encrypter,
            decrypter,
            sent,
            received,
        })
    }

    /// Sends a record of any type.
    pub fn send(&mut self, wire: &mut Wire, kind: u8, bytes: &[u8]) -> io::Result<()> {
        let encrypted = self.encrypter.encrypt(message(kind, bytes), self.sent);
        self.sent += 1;
        wire.write(&encrypted.map_err(io::Error::other)?.encode())
    }

    /// Appends the application data that comes next: how many bytes, 0 at the end, be it that of TLS or of TCP.
    pub fn receive(&mut self, wire: &mut Wire, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let mut record = Vec::new();
        loop {
            if !read_record(wire, &mut record)? {
                return Ok(0);
            }
            let (header, payload) = record.split_at_mut(HEADER);
            let kind = ContentType::from(header[0]);
            let message = InboundOpaqueMessage::new(kind, ProtocolVersion::TLSv1_2, payload);
            // Middlebox compatibility (RFC 8446, D.4).
            if kind == ContentType::ChangeCipherSpec {
                continue;
            }
            let plain = self.decrypter.decrypt(message, self.received);
            self.received += 1;
            let plain = plain.map_err(io::Error::other)?;
            match plain.typ {
                ContentType::ApplicationData if !plain.payload.is_empty() => {
                    bytes.extend_from_slice(plain.payload);
                    return Ok(plain.payload.len());
                }
                ContentType::Alert => return Ok(0),
                _ => {}
            }
        }
    }
}

fn message(kind: u8, bytes: &[u8]) -> OutboundPlainMessage<'_> {
    OutboundPlainMessage {
        typ: ContentType::from(kind),
        version: ProtocolVersion::TLSv1_2,
        payload: bytes.into(),
    }
}

fn parts(
    secrets: ConnectionTrafficSecrets,
) -> io::Result<(rustls::crypto::cipher::AeadKey, rustls::crypto::cipher::Iv)> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv } => Ok((key, iv)),
        _ => Err(io::Error::other("this cipher suite was not to be offered")),
    }
}
