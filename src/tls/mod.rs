//! TLS: whom we are, whom we trust, and what went wrong.
//!
//! ```text
//!  options ─▶ ProfileCache ─▶ Profile ─load─▶ rustls::ClientConfig ─▶ handshake ─▶ TlsStream
//!               identity.rs ◀─┤ trust.rs                observe.rs ◀─┤      │
//!                  └── pem.rs ┘                                     explain.rs
//! ```

mod explain;
mod handshake;
mod identity;
mod leaf;
mod observe;
mod pem;
mod profile;
mod trust;
mod verify;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Cause, Error, Result, Stage};

pub use handshake::{Session, handshake, prepare, server_name};
pub use identity::IdentitySource;
pub use profile::{Loaded, Profile, ProfileCache, ProfileOptions};
pub use trust::TrustSource;

/// Bytes of an option, or the file that has them, with the option's name for errors.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// PEM text.
    Text(&'static str, Arc<[u8]>),
    /// Path of a PEM file.
    Path(&'static str, PathBuf),
}

impl Source {
    /// Name of the option that gave this source.
    pub fn option(&self) -> &'static str {
        match self {
            Self::Text(option, _) | Self::Path(option, _) => option,
        }
    }

    fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Text(_, text) => Ok(Cow::Borrowed(text)),
            Self::Path(option, path) => match std::fs::read(path) {
                Ok(text) => Ok(Cow::Owned(text)),
                Err(error) => Err(Error::new(
                    Stage::Options,
                    Cause::Unreadable {
                        option,
                        path: path.display().to_string(),
                        reason: error.to_string(),
                    },
                )),
            },
        }
    }
}

impl fmt::Debug for Source {
    /// Never shows the text: it may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(option, _) => write!(f, "{option} (text)"),
            Self::Path(option, path) => write!(f, "{option} ({})", path.display()),
        }
    }
}
