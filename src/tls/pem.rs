//! PEM blocks (RFC 7468). The only file that knows which crate reads them.

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A PEM block that means something here.
pub enum Block {
    /// `CERTIFICATE`
    Certificate(CertificateDer<'static>),
    /// `PRIVATE KEY` (PKCS#8), `RSA PRIVATE KEY` (PKCS#1) or `EC PRIVATE KEY` (SEC1)
    Key(PrivateKeyDer<'static>),
    /// `X509 CRL` or anything else that is well-formed
    Other,
}

/// Every block of `text`, in order.
///
/// # Errors
///
/// A description of the first block that is not PEM. It quotes nothing of the text, which may be a
/// private key.
pub fn blocks(text: &[u8]) -> Result<Vec<Block>, String> {
    // rustls-pemfile is archived upstream. Its successor is the `PemObject` trait of
    // rustls-pki-types; moving there changes this function and nothing else.
    rustls_pemfile::read_all(&mut &text[..])
        .map(|item| match item {
            Ok(rustls_pemfile::Item::X509Certificate(der)) => Ok(Block::Certificate(der)),
            Ok(rustls_pemfile::Item::Pkcs8Key(der)) => Ok(Block::Key(der.into())),
            Ok(rustls_pemfile::Item::Pkcs1Key(der)) => Ok(Block::Key(der.into())),
            Ok(rustls_pemfile::Item::Sec1Key(der)) => Ok(Block::Key(der.into())),
            Ok(_) => Ok(Block::Other),
            Err(_) => Err("a PEM block is cut off or is not base64".to_owned()),
        })
        .collect()
}

/// Whether `text` has a private key that needs a passphrase.
pub fn is_encrypted_key(text: &[u8]) -> bool {
    [
        &b"-----BEGIN ENCRYPTED PRIVATE KEY-----"[..],
        b"Proc-Type: 4,ENCRYPTED",
    ]
    .iter()
    .any(|marker| text.windows(marker.len()).any(|part| part == *marker))
}
