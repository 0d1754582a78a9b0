//! What happened in one handshake, for reports and for the errors that explain it.
//!
//! rustls calls the certificate resolver and the verifier of a *configuration*, and resumes
//! sessions only under the same two objects, so they cannot be made per connection. Both run while
//! the handshake's task is polled, which makes a task-local the place to note what they saw.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;

tokio::task_local! {
    static CURRENT: Arc<Observation>;
}

/// Notes of one handshake.
#[derive(Debug, Default)]
pub struct Observation(Mutex<Seen>);

/// What the resolver and the verifier saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The server's certificates, as it sent them.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whether the server chose TLS 1.3.
    pub is_tls13: bool,
    /// What became of the server's request for a client certificate, if it made one.
    pub request: Option<ClientAuth>,
    /// DER of the names of the CAs that it accepts client certificates of; any if there are none.
    pub authorities: Vec<Box<[u8]>>,
}

/// The answer to a server's request for a client certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// The identity's certificate was sent.
    Sent,
    /// The caller gave no identity.
    NoIdentity,
    /// The key can make none of the signatures that the server accepts.
    NoCommonScheme,
}

impl Observation {
    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// What became of the server's request for a client certificate, if it made one.
    pub fn request(&self) -> Option<ClientAuth> {
        self.lock().request
    }

    /// The server's certificates, for whoever keeps them.
    pub fn take_chain(&self) -> Vec<CertificateDer<'static>> {
        std::mem::take(&mut self.lock().chain)
    }

    /// Lets go of what only a rejection is explained with, once the server has answered.
    pub fn forget_authorities(&self) {
        self.lock().authorities = Vec::new();
    }

    /// Runs a handshake whose resolver and verifier note here what they see.
    pub async fn watch<F: Future>(self: &Arc<Self>, handshake: F) -> F::Output {
        CURRENT.scope(self.clone(), handshake).await
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes something about the handshake of the current task, if there is one.
pub fn note(change: impl FnOnce(&mut Seen)) {
    // Without a watched handshake there is nobody to tell.
    let _ = CURRENT.try_with(|observation| change(&mut observation.lock()));
}
