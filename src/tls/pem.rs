//! PEM blocks (RFC 7468). The only file that knows which crates read them.

use data_encoding::BASE64;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use x509_parser::pem::Pem;

use crate::vault;

/// A PEM block that means something here.
pub enum Block {
    /// `CERTIFICATE`
    Certificate(CertificateDer<'static>),
    /// `PRIVATE KEY` (PKCS#8), `RSA PRIVATE KEY` (PKCS#1) or `EC PRIVATE KEY` (SEC1)
    Key(PrivateKeyDer<'static>),
    /// `X509 CRL`
    RevocationList(CertificateRevocationListDer<'static>),
    /// Anything else that is well-formed
    Other,
}

/// Every block of `text`, in order.
///
/// # Errors
///
/// A description of the first block that is not PEM. It quotes nothing of the text, which may be a
/// private key.
pub fn blocks(text: &[u8]) -> Result<Vec<Block>, String> {
    use rustls_pemfile::Item;
    // rustls-pemfile is archived upstream. Its successor is the `PemObject` trait of
    // rustls-pki-types; moving there changes this function and nothing else.
    rustls_pemfile::read_all(&mut &text[..])
        .map(|item| match item {
            Ok(Item::X509Certificate(der)) => Ok(Block::Certificate(der)),
            Ok(Item::Pkcs8Key(der)) => Ok(Block::Key(der.into())),
            Ok(Item::Pkcs1Key(der)) => Ok(Block::Key(der.into())),
            Ok(Item::Sec1Key(der)) => Ok(Block::Key(der.into())),
            Ok(Item::Crl(der)) => Ok(Block::RevocationList(der)),
            Ok(_) => Ok(Block::Other),
            Err(_) => Err("a PEM block is cut off or is not base64".to_owned()),
        })
        .collect()
}

/// What else than PEM a value seems to be, for whoever gave it.
pub fn mistaken_for(text: &[u8]) -> &'static str {
    match text {
        [b'/' | b'.', ..] => "; it looks like a path",
        [0x30, 0x80..=0xff, ..] => "; it is DER: convert it with openssl … -inform DER",
        _ => "",
    }
}

/// Whether `text` looks like PEM at all.
pub fn is_pem(text: &[u8]) -> bool {
    contains(text, b"-----BEGIN")
}

/// Whether `text` is PEM without its first and last line: a SEQUENCE (X.690, 8.9) in base64. Line ends
/// may be escaped, as they are in environment variables.
pub fn is_base64_of_der(text: &[u8]) -> bool {
    vault::within(|| is_base64_of_der_within(text))
}

fn is_base64_of_der_within(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text).replace("\\n", "");
    let Ok(der) = BASE64.decode(text.as_bytes()) else {
        return false;
    };
    let (header, length) = match *der {
        [0x30, length @ ..=0x7f, ..] => (2, usize::from(length)),
        [0x30, 0x81, length, ..] => (3, usize::from(length)),
        [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
        _ => return false,
    };
    der.len() == header + length
}

/// Whether `text` has a key that is encrypted as OpenSSL did before PKCS#8.
pub fn is_legacy_encrypted(text: &[u8]) -> bool {
    contains(text, b"Proc-Type: 4,ENCRYPTED")
}

/// DER of the first `ENCRYPTED PRIVATE KEY` (PKCS#8).
pub fn encrypted_key(text: &[u8]) -> Option<Vec<u8>> {
    if !contains(text, b"-----BEGIN ENCRYPTED PRIVATE KEY-----") {
        return None;
    }
    Pem::iter_from_buffer(text)
        .filter_map(Result::ok)
        .find(|block| block.label == "ENCRYPTED PRIVATE KEY")
        .map(|block| block.contents)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|part| part == wanted)
}
