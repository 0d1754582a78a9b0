--- Asks an authorization service about each request, over mutual TLS. docs/plugins has its page.
--
-- Options and headers are those of APISIX's forward-auth, so that a configuration can be moved.

local core = require("apisix.core")
local mtls = require("resty.mtls.apisix")

local ipairs = ipairs
local lower = string.lower
local pairs = pairs


local function header_names()
    return { type = "array", default = {}, items = { type = "string" } }
end


local schema = {
    type = "object",
    properties = {
        uri = { type = "string", pattern = "^https://" },
        allow_degradation = { type = "boolean", default = false },
        status_on_error = { type = "integer", minimum = 200, maximum = 599, default = 403 },
        ssl_verify = { type = "boolean", default = true },
        request_method = { type = "string", default = "GET", enum = { "GET", "POST" } },
        max_req_body_size = { type = "integer", minimum = 1, default = 67108864 },
        request_headers = header_names(),
        extra_headers = {
            type = "object",
            minProperties = 1,
            patternProperties = { ["^[^:]+$"] = { type = "string" } },
        },
        upstream_headers = header_names(),
        client_headers = header_names(),
        timeout = { type = "integer", minimum = 1, maximum = 60000, default = 3000 },
        keepalive = { type = "boolean", default = true },
        keepalive_timeout = { type = "integer", minimum = 1000, default = 60000 },
        keepalive_pool = { type = "integer", minimum = 1, default = 5 },
        tls = mtls.tls_schema,
    },
    encrypt_fields = mtls.encrypt_fields,
    required = { "uri", "tls" },
}

-- They say how long the client's body is, which is not how long the one that is sent is.
local FRAMING = { ["content-length"] = true, ["transfer-encoding"] = true, expect = true }


local _M = {
    version = 0.1,
    priority = 92,
    name = "mtls-forward-auth",
    schema = schema,
}


function _M.init()
    local ok, err = mtls.setup()
    if not ok then
        core.log.error("mtls-forward-auth: ", err)
    end
end


function _M.check_schema(conf)
    core.utils.check_tls_bool({ "ssl_verify", "tls.ssl_verify" }, conf, _M.name)
    return core.schema.check(schema, conf)
end


-- Headers by their names in small letters: a client must not add a second X-Forwarded-For.
local function auth_headers(conf, ctx)
    local headers, spelling = {}, {}
    local function set(name, value)
        local folded = lower(name)
        spelling[folded] = spelling[folded] or name
        headers[spelling[folded]] = value
    end

    set("X-Forwarded-Proto", core.request.get_scheme(ctx))
    set("X-Forwarded-Method", core.request.get_method())
    set("X-Forwarded-Host", core.request.get_host(ctx))
    set("X-Forwarded-Uri", ctx.var.request_uri)
    set("X-Forwarded-For", core.request.get_remote_client_ip(ctx))
    if conf.request_method == "POST" then
        set("Content-Encoding", core.request.header(ctx, "content-encoding"))
    end
    for name, template in pairs(conf.extra_headers or {}) do
        local value, err = core.utils.resolve_var(template, ctx.var)
        if err then
            core.log.error("mtls-forward-auth: cannot resolve the variables of extra header '",
                name, "': ", err)
        else
            set(name, value)
        end
    end
    for _, name in ipairs(conf.request_headers) do
        local folded = lower(name)
        if not spelling[folded] and not FRAMING[folded] then
            set(name, core.request.header(ctx, name))
        end
    end
    return headers
end


-- A header named in upstream_headers is the service's, or is not there: never the client's.
local function set_upstream_headers(conf, ctx, found)
    for _, name in ipairs(conf.upstream_headers) do
        core.request.set_header(ctx, name, found[name])
    end
end


local function refuse(conf, res)
    local headers = {}
    for _, name in ipairs(conf.client_headers) do
        headers[name] = res.headers[name]
    end
    core.response.set_header(headers)
    return res.status, res.body
end


function _M.access(conf, ctx)
    local params = { method = conf.request_method, headers = auth_headers(conf, ctx) }
    if conf.request_method == "POST" then
        local body, err = core.request.get_body(conf.max_req_body_size, ctx)
        if err then
            core.log.error("mtls-forward-auth: cannot read the request's body: ", err)
            return 413
        end
        params.body = body
    end

    local res, err, code = mtls.request(conf, conf.uri, params)
    if not res then
        core.log.error("mtls-forward-auth: ", err)
        -- A client must not get past the service with a header that cannot be sent.
        if not conf.allow_degradation or code == "bad_argument" then
            return conf.status_on_error
        end
    elseif res.status >= 300 then
        return refuse(conf, res)
    end
    set_upstream_headers(conf, ctx, res and res.headers or {})
end


return _M
