rockspec_format = "3.0"
package = "lua-resty-mtls"
version = "scm-1"

description = {
    summary = "Mutual-TLS HTTP client for OpenResty and Apache APISIX",
    detailed = [[
        The API of lua-resty-http over a native client built with rustls: client certificates work
        on any nginx with the Lua module, without patches, and in plain LuaJIT.
    ]],
    license = "Apache-2.0",
    labels = { "openresty", "apisix", "http", "tls", "mtls" },
}

-- Run `luarocks make` in a checkout; nothing is fetched but the crates that Cargo.lock names.
source = {
    url = "file://.",
}

-- LuaJIT counts as Lua 5.1. The native library is linked against neither.
dependencies = {
    "lua == 5.1",
}

build = {
    type = "make",
    build_target = "build",
    install_target = "install",
    install_variables = {
        LUA_LIB_DIR = "$(LUADIR)",
        LUA_CLIB_DIR = "$(LIBDIR)",
        BIN_DIR = "$(BINDIR)",
    },
}
