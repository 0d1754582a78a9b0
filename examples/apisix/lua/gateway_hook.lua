--- `apisix.lua_module_hook` of config.yaml: runs in init_by_lua, before APISIX is loaded, whose
--- modules it must not require. With the drop-in files, all calls of the gateway trust these CAs.

local http = require("resty.mtls.http")

assert(http.set_defaults({
    ssl_trusted_certificate = { "/opt/gateway/ca.crt", "system" },
}))

return {}
