//! The native half of lua-resty-mtls.

pub mod http1;
