--- Real nginx processes on free loopback ports. The parts are in nginx/.
local gateway = require("spec.support.nginx.gateway")
local server = require("spec.support.nginx.server")
local upstream = require("spec.support.nginx.upstream")

return {
    --- Any configuration. See nginx/server.lua.
    start = server.start,

    --- A server that demands client certificates and tells what it saw. See nginx/upstream.lua.
    upstream = upstream.start,

    --- A server that runs Lua chunks in any phase. See nginx/gateway.lua.
    gateway = gateway.start,

    --- One chunk in a gateway of its own.
    run_lua = gateway.run_lua,
}
