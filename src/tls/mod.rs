//! TLS: whom we are, whom we trust, and what went wrong.
//!
//! ```text
//!  options ─▶ ProfileCache ─▶ Profile ─load─▶ config.rs ─▶ handshake.rs ─▶ TlsStream, Session
//!                                │ identity.rs ◀─┤              │                │
//!            files change        │ trust.rs    ◀─┤   observe.rs ◀── verify.rs    ├─▶ explain/
//!            source.rs ──────────┘                                              └─▶ report.rs
//! ```

mod certificate;
mod chain;
mod config;
mod explain;
mod handshake;
mod identity;
#[expect(
    unsafe_code,
    reason = "geteuid: the key log has to be a file of this user"
)]
mod keylog;
mod observe;
mod pem;
mod pin;
mod profile;
mod secret;
mod source;
mod trust;
mod verify;

pub use certificate::Certificate;
pub use config::{InUse, Loaded, ProfileOptions, Protocols, Version};
pub use handshake::{Session, prepare, server_name};
pub use identity::{Identity, IdentityFiles, IdentitySource};
pub use observe::ClientAuth;
pub use pem::{is_base64_of_der, is_pem};
pub use pin::Pins;
pub use profile::{Profile, ProfileCache};
pub use secret::Passphrase;
pub use source::Source;
pub use trust::TrustSource;
