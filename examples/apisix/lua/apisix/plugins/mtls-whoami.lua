--- Answers with what a service answers to the gateway: a plugin of one's own, as short as it gets.

local core = require("apisix.core")
local mtls = require("resty.mtls.apisix")

local schema = {
    type = "object",
    properties = {
        uri = { type = "string", pattern = "^https://" },
        tls = mtls.tls_schema,
        timeout = { type = "integer", minimum = 1, default = 3000 },
    },
    encrypt_fields = mtls.encrypt_fields,
    required = { "uri", "tls" },
}

local _M = {
    version = 0.1,
    priority = 50,
    name = "mtls-whoami",
    schema = schema,
}


function _M.init()
    local ok, err = mtls.setup()
    if not ok then
        core.log.error("mtls-whoami: ", err)
    end
end


function _M.check_schema(conf)
    return core.schema.check(schema, conf)
end


function _M.access(conf)
    local res, err = mtls.request(conf, conf.uri, { method = "GET" })
    if not res then
        core.log.error("mtls-whoami: ", err)
        return 502
    end
    return res.status, res.body
end


return _M
