//! Files that are no identity, or half of one: loading them never panics, and what is loaded belongs together.
//!
//! An input is the content of a file with one byte behind it that says how it is to be read.

#![no_main]
#![allow(dead_code, unused_imports, reason = "only identities are loaded here")]

use libfuzzer_sys::fuzz_target;

use self::tls::{IdentityFiles, IdentitySource, Passphrase, Source};

#[path = "../../src/error/mod.rs"]
mod error;
#[path = "../../src/http1/mod.rs"]
mod http1;
#[path = "../../src/log.rs"]
mod log;
#[path = "../../src/net/mod.rs"]
mod net;
#[path = "../../src/threads.rs"]
mod threads;
#[path = "../../src/tls/mod.rs"]
mod tls;

/// In place of the library's allocator, whose memory libFuzzer could not watch.
mod vault {
    pub fn within<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
}

const PASSPHRASE: &str = "correct horse";

/// What a user may be told of such a file.
const CODES: [&str; 6] = [
    "bad_certificate_pem",
    "bad_key_pem",
    "bad_pkcs12",
    "key_encrypted",
    "key_mismatch",
    "key_passphrase_wrong",
];

fuzz_target!(|input: &[u8]| {
    let Some((&how, file)) = input.split_last() else {
        return;
    };
    let given = |option| Source::Given(option, file.into());
    let files = match how & 1 {
        0 => IdentityFiles::Pem {
            certificate: given("ssl_cert"),
            key: given("ssl_key"),
        },
        _ => IdentityFiles::Pkcs12(given("ssl_pkcs12")),
    };
    let passphrase = (how & 2 != 0).then(|| Passphrase(PASSPHRASE.into()));
    match (IdentitySource { files, passphrase }).load() {
        Ok((identity, certified)) => {
            let chain = identity.chain().count();
            assert_eq!(chain, certified.cert.len());
            let key = certified.key.public_key();
            assert!(key.is_some(), "the key and the first certificate were compared");
        }
        Err(error) => {
            assert!(CODES.contains(&error.code()), "{}: {error}", error.code());
            assert_eq!(error.stage(), "options");
            let hint = error.hint().unwrap_or_default();
            assert!(!error.to_string().contains(PASSPHRASE) && !hint.contains(PASSPHRASE));
        }
    }
});
