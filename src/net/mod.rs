//! The network below TLS: names to addresses, TCP and unix sockets.

mod resolve;
mod transport;

pub use resolve::{Resolver, in_network, literal, without_brackets};
pub use transport::{Endpoint, Transport, has_plaintext, is_silent, tcp, unix};
