//! Link options of the native module.

fn main() {
    // Otherwise any file of the checkout, a spec too, would have all of it compiled again.
    println!("cargo:rerun-if-changed=build.rs");
    // `lua_close` unloads C modules. The runtime thread and thread-local destructors of this
    // library outlive any Lua VM (`lua_code_cache off` closes one per request), so its code has
    // to stay mapped.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
