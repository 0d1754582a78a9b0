//! Private keys, also those that need a passphrase, and PKCS#12 files.

use std::fmt;
use std::sync::Arc;

use p12_keystore::Pkcs12Archive;
use p12_keystore::error::Error as Pkcs12Error;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5::pbes2::Kdf;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::Source;
use super::pem::{self, Block};
use crate::error::{Cause, Error, Result, Stage};

/// A passphrase, which nothing shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Passphrase(pub Arc<str>);

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(passphrase)")
    }
}

/// The first private key of a PEM text.
///
/// # Errors
///
/// There is none, or it is encrypted and the passphrase is missing or wrong.
pub fn private_key(
    source: &Source,
    passphrase: Option<&Passphrase>,
) -> Result<PrivateKeyDer<'static>> {
    let option = source.option();
    let bad = |reason: String| options_error(Cause::BadKeyPem { option, reason });
    let text = source.read_one()?;
    if pem::is_legacy_encrypted(&text) {
        return Err(options_error(Cause::KeyEncrypted {
            option,
            is_legacy: true,
        }));
    }
    if let Some(der) = pem::encrypted_key(&text) {
        return match passphrase {
            Some(passphrase) => decrypted(&der, passphrase, option),
            None => Err(options_error(Cause::KeyEncrypted {
                option,
                is_legacy: false,
            })),
        };
    }
    pem::blocks(&text)
        .map_err(bad)?
        .into_iter()
        .find_map(|block| match block {
            Block::Key(der) => Some(der),
            _ => None,
        })
        .ok_or_else(|| {
            bad(format!(
                "no PEM private key found{}",
                pem::mistaken_for(&text)
            ))
        })
}

/// What a PKCS#12 file has.
pub struct Pkcs12 {
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Its certificates, in no order.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Reads a PKCS#12 file (RFC 7292).
///
/// # Errors
///
/// It is none, has no key, or the passphrase is missing or wrong.
pub fn pkcs12(source: &Source, passphrase: Option<&Passphrase>) -> Result<Pkcs12> {
    let option = source.option();
    let bad = |reason: String| options_error(Cause::BadPkcs12 { option, reason });
    let bytes = source.read_one()?;
    if pem::is_pem(&bytes) {
        return Err(bad("it is PEM text".to_owned()));
    }
    if bytes.windows(SCRYPT.len()).any(|part| part == SCRYPT) {
        return Err(bad(
            "it is encrypted with scrypt, which is not supported here".to_owned(),
        ));
    }
    let archive = Pkcs12Archive::from_pkcs12(&bytes, passphrase.map_or("", |text| &text.0));
    let mut archive = archive.map_err(|error| match error {
        // The MAC tells of a wrong passphrase; in a file without one, what is decrypted makes no
        // sense. There are files with an empty passphrase, so it is tried where none is given.
        Pkcs12Error::MacError(_)
        | Pkcs12Error::UnpadError
        | Pkcs12Error::Pkcs5Error(_)
        | Pkcs12Error::InvalidPrivateKey => match passphrase {
            Some(_) => options_error(Cause::KeyPassphraseWrong { option }),
            None => options_error(Cause::KeyEncrypted {
                option,
                is_legacy: false,
            }),
        },
        other => bad(other.to_string()),
    })?;
    if archive.keys.len() != 1 {
        let count = archive.keys.len();
        return Err(bad(format!("it has {count} private keys, and not one")));
    }
    if archive.certs.is_empty() {
        return Err(bad("it has no certificate".to_owned()));
    }
    let key = archive.keys.swap_remove(0).key;
    Ok(Pkcs12 {
        key: PrivatePkcs8KeyDer::from(key.as_der().to_vec()).into(),
        certificates: archive
            .certs
            .iter()
            .map(|bag| bag.cert.as_der().to_vec().into())
            .collect(),
    })
}

/// DER of scrypt's object identifier (RFC 7914, 7). In a PKCS#12 file its cost cannot be looked at
/// before it is paid.
const SCRYPT: &[u8] = b"\x06\x09\x2b\x06\x01\x04\x01\xda\x47\x04\x0b";

/// Bytes of memory that a passphrase may cost, as in OpenSSL. An allocation that fails would end the
/// process, and a file of 300 bytes may ask for any size.
const MAX_SCRYPT_MEMORY: u64 = 32 * 1024 * 1024;

/// A few seconds of one thread.
const MAX_ITERATIONS: u32 = 10_000_000;

fn check_cost(kdf: &Kdf) -> std::result::Result<(), String> {
    if let Some(scrypt) = kdf.scrypt() {
        let (size, lanes) = (scrypt.block_size, scrypt.parallelization);
        let memory = 128_u64
            .checked_mul(scrypt.cost_parameter)
            .and_then(|memory| memory.checked_mul(u64::from(size)))
            .and_then(|memory| memory.checked_mul(u64::from(lanes)));
        if memory.is_none_or(|memory| memory > MAX_SCRYPT_MEMORY) {
            return Err("its passphrase costs too much memory (scrypt)".to_owned());
        }
        // RFC 7914, 2: a power of two, and more than 1.
        if !scrypt.cost_parameter.is_power_of_two()
            || scrypt.cost_parameter == 1
            || memory == Some(0)
        {
            return Err("its parameters of scrypt make no sense".to_owned());
        }
    }
    match kdf.pbkdf2() {
        Some(pbkdf2) if pbkdf2.iteration_count > MAX_ITERATIONS => {
            Err("its passphrase costs too many iterations (PBKDF2)".to_owned())
        }
        _ => Ok(()),
    }
}

fn decrypted(
    der: &[u8],
    passphrase: &Passphrase,
    option: &'static str,
) -> Result<PrivateKeyDer<'static>> {
    use pkcs8::Error::{Asn1, EncryptedPrivateKey};
    let unsupported = |error: pkcs8::Error| {
        let reason = match error {
            // PBES1 (RFC 8018, 6.1), whose parameters look broken where PBES2 is expected.
            Asn1(_) => "it is encrypted in a way that is not supported".to_owned(),
            other => format!("it is encrypted in a way that is not supported: {other}"),
        };
        options_error(Cause::BadKeyPem { option, reason }).with_hint(format!(
            "encrypt the key in {option} with a cipher of today: openssl pkcs8 -topk8 -v2 \
             aes-256-cbc -in KEY -out NEW_KEY"
        ))
    };
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(der).map_err(unsupported)?;
    if let Some(parameters) = encrypted.encryption_algorithm.pbes2() {
        check_cost(&parameters.kdf)
            .map_err(|reason| options_error(Cause::BadKeyPem { option, reason }))?;
    }
    match encrypted.decrypt(passphrase.0.as_bytes()) {
        Ok(key) => Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into()),
        // A wrong passphrase shows as wrong padding; one in 256 has padding that looks right, and
        // what is in front of it is no key then.
        Err(Asn1(_) | EncryptedPrivateKey(pkcs8::pkcs5::Error::DecryptFailed)) => {
            Err(options_error(Cause::KeyPassphraseWrong { option }))
        }
        Err(other) => Err(unsupported(other)),
    }
}

fn options_error(cause: Cause) -> Error {
    Error::new(Stage::Options, cause)
}

#[cfg(test)]
mod tests {
    use pkcs8::pkcs5::pbes2::{Pbkdf2Params, Pbkdf2Prf, Salt, ScryptParams};

    use super::*;

    fn salt() -> Salt {
        Salt::try_from(&b"salt"[..]).unwrap()
    }

    #[test]
    fn refuses_scrypt_that_wants_more_memory_than_openssl_would_give() {
        let cost = |log_n: u32, block_size: u16, parallelization: u16| {
            let kdf = Kdf::from(ScryptParams {
                salt: salt(),
                cost_parameter: 1 << log_n,
                block_size,
                parallelization,
                key_length: None,
            });
            check_cost(&kdf)
        };
        assert_eq!(cost(14, 8, 1), Ok(()));
        assert!(cost(22, 64, 1).is_err());
        assert!(cost(15, 8192, 1).is_err());
        assert!(cost(0, 8, 1).is_err());
        assert!(cost(14, 0, 1).is_err());
        assert!(cost(63, u16::MAX, u16::MAX).is_err());
    }

    #[test]
    fn refuses_pbkdf2_that_takes_minutes() {
        let cost = |iteration_count: u32| {
            let kdf = Kdf::from(Pbkdf2Params {
                salt: salt(),
                iteration_count,
                key_length: None,
                prf: Pbkdf2Prf::HmacWithSha256,
            });
            check_cost(&kdf)
        };
        assert_eq!(cost(600_000), Ok(()));
        assert!(cost(100_000_000).is_err());
    }
}
