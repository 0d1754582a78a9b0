//! HTTP/2 over one connection (RFC 9113), with the crate `h2`: what all streams of it share.
//!
//! ```text
//!  IO ─▶ Wire ─▶ Driver ── polls, pings ──▶ task of the runtime
//!                  │
//!             Connection ── places, health ──▶ client/sharing.rs
//!                  └─ open ─▶ Stream ─▶ client/streams.rs
//!                               └─ Coming ── the head of its response
//! ```
//!
//! Heads come from and go to the types of `http1`, so that callers see no difference.

mod coming;
mod connection;
mod driver;
mod fault;
mod head;
mod wire;

pub use coming::Coming;
pub use connection::{Connection, InFlight, Stream};
pub use driver::{Driver, start};
pub use fault::Fault;
pub use head::{Head, headers, response};
pub use wire::Health;
