//! The network below TLS: names to addresses, TCP and unix sockets.

mod resolve;
mod transport;

pub use resolve::resolve;
pub use transport::{Endpoint, Transport, connect};
