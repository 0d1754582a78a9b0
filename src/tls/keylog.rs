//! The key log (`SSLKEYLOGFILE`), with which Wireshark reads what was encrypted.
//!
//! Whoever has the file can read the connections it is about, so it takes two to write one: whoever
//! sets the environment variable and whoever calls `set_defaults{ allow_keylog = true }`.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::HEXLOWER;
use once_cell::sync::OnceCell;

use super::observe;
use crate::log::Log;

/// What rustls tells its secrets.
#[derive(Debug)]
pub struct KeyLog {
    file: Option<&'static Mutex<File>>,
}

/// The environment variable that names the file; other TLS libraries know it as well.
const VARIABLE: &str = "SSLKEYLOGFILE";

/// The label that only TLS 1.3 has, as soon as the server has spoken.
const TLS13_LABEL: &str = "CLIENT_HANDSHAKE_TRAFFIC_SECRET";

impl KeyLog {
    /// Writes to the file of the environment if `allowed`, and else nowhere.
    pub fn new(allowed: bool, log: &Log) -> Arc<Self> {
        let file = match allowed {
            true => open(log),
            false => None,
        };
        Arc::new(Self { file })
    }
}

/// Opened once per process, which is warned of.
fn open(log: &Log) -> Option<&'static Mutex<File>> {
    static FILE: OnceCell<Option<Mutex<File>>> = OnceCell::new();
    let file = FILE.get_or_init(|| {
        let path = std::env::var_os(VARIABLE)?;
        let shown = path.to_string_lossy();
        match open_private(&path) {
            Ok(file) => {
                log.warn(format!(
                    "the secrets of TLS connections are written to {shown} ({VARIABLE}): whoever \
                     reads that file can decrypt them"
                ));
                Some(Mutex::new(file))
            }
            Err(error) => {
                log.error(format!("cannot write {shown} ({VARIABLE}): {error}"));
                None
            }
        }
    });
    file.as_ref()
}

/// A file that nobody else can read: not one that somebody has put there for us to fill.
fn open_private(path: &OsStr) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    // SAFETY: geteuid has no preconditions and does not fail.
    let user = unsafe { libc::geteuid() };
    if !metadata.is_file() || metadata.uid() != user {
        return Err(io::Error::other(
            "it is not a file of the user that writes it",
        ));
    }
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let Some(file) = self.file else {
            return;
        };
        let line = format!(
            "{label} {} {}\n",
            HEXLOWER.encode(client_random),
            HEXLOWER.encode(secret)
        );
        // In one write, since several workers append to the file. One that cannot be written is no
        // reason to fail a request.
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = file.write_all(line.as_bytes());
    }

    fn will_log(&self, label: &str) -> bool {
        if label == TLS13_LABEL {
            // Of a handshake that fails later, nothing else says which version it was.
            observe::note(|seen| seen.is_tls13 = true);
        }
        self.file.is_some()
    }
}
