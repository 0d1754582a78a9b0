//! The native half of lua-resty-mtls: HTTP requests over mutual TLS for nginx, off its event loop.
//!
//! ```text
//!  lua/resty/mtls ─▶ binding ─▶ client ─▶ http2 ─▶ http1 · tls · pool · net
//!                       └──▶ mailbox · runtime
//! ```
//!
//! Lua sees one module, `resty.mtls.native`, and only through `lua/resty/mtls/*.lua`.

mod binding;
pub mod client;
pub mod error;
pub mod http1;
pub mod http2;
pub mod log;
pub mod mailbox;
#[expect(unsafe_code, reason = "malloc_trim gives memory back")]
pub mod memory;
pub mod net;
pub mod pool;
#[expect(
    unsafe_code,
    reason = "the engine of a process: a leaked pointer, a handler of forks, signal masks"
)]
pub mod runtime;
pub mod stats;
pub mod threads;
pub mod tls;
#[expect(
    unsafe_code,
    reason = "the allocator, and the memory of secrets that it gives"
)]
pub mod vault;

/// `require("resty.mtls.native")`
///
/// Without mlua's guard against Lua being out of memory around each call: see `binding/strings.rs`.
#[mlua::lua_module(name = "resty_mtls_native", skip_memory_check)]
fn open(lua: &mlua::Lua) -> mlua::Result<mlua::Table> {
    vault::take_over_crypto();
    binding::module(lua)
}
