--- Calls an endpoint over mutual TLS about a request, with what nginx knows of it. In the access
--- phase, the answer goes into headers and variables of the request. docs/plugins has its page.

local core = require("apisix.core")
local fields = require("apisix.plugins.mtls-callout.fields")
local mtls = require("resty.mtls.apisix")
local queues = require("apisix.plugins.mtls-callout.queue")

local escape_uri = ngx.escape_uri
local find = string.find
local getmetatable = getmetatable
local lower = string.lower
local match = string.match
local pairs = pairs
local setmetatable = setmetatable
local type = type


local schema = {
    type = "object",
    properties = {
        phase = { type = "string", enum = { "access", "log" }, default = "access" },
        -- The host is not taken from a request: whoever sent it would choose who is called.
        uri = { type = "string", pattern = [[^https://[^/?#@$\s]+([/?]\S*)?$]] },
        method = { type = "string", enum = { "GET", "POST", "PUT", "PATCH", "DELETE" } },
        headers = {
            type = "object",
            patternProperties = { ["^[^:]+$"] = { type = "string" } },
        },
        body = {
            anyOf = { { type = "string" }, { type = "object" } },
        },
        success_statuses = {
            type = "array",
            minItems = 1,
            items = { type = "integer", minimum = 200, maximum = 599 },
        },
        set_headers = {
            type = "object",
            patternProperties = { ["^[^:]+$"] = fields.schema },
        },
        set_vars = {
            type = "object",
            patternProperties = { ["^[a-z][a-z0-9_]*$"] = fields.schema },
            additionalProperties = false,
        },
        allow_degradation = { type = "boolean", default = false },
        status_on_error = { type = "integer", minimum = 200, maximum = 599, default = 503 },
        timeout = { type = "integer", minimum = 1, maximum = 60000, default = 3000 },
        keepalive = { type = "boolean", default = true },
        keepalive_timeout = { type = "integer", minimum = 1000, default = 60000 },
        keepalive_pool = { type = "integer", minimum = 1, default = 5 },
        tls = mtls.tls_schema,
    },
    encrypt_fields = mtls.encrypt_fields,
    required = { "uri", "tls" },
}


local _M = {
    version = 0.1,
    priority = 91,
    name = "mtls-callout",
    schema = schema,
}


function _M.init()
    local ok, err = mtls.setup()
    if not ok then
        core.log.error("mtls-callout: ", err)
    end
end


function _M.check_schema(conf)
    core.utils.check_tls_bool({ "tls.ssl_verify" }, conf, _M.name)
    local ok, err = core.schema.check(schema, conf)
    if not ok then
        return false, err
    end
    if conf.phase == "log" and (conf.set_headers or conf.set_vars) then
        return false, "set_headers and set_vars need phase access: in phase log the request is over"
    end
    return true
end


-- A template with the values of variables, or a table of templates.
local function resolve(template, vars)
    if type(template) == "string" then
        return core.utils.resolve_var(template, vars)
    elseif type(template) ~= "table" then
        return template
    end
    -- The metatable tells an empty array from an empty object.
    local resolved = setmetatable({}, getmetatable(template))
    for name, item in pairs(template) do
        local value, err = resolve(item, vars)
        if err then
            return nil, err
        end
        resolved[name] = value
    end
    return resolved
end


local function has_header(headers, name)
    for given in pairs(headers) do
        if lower(given) == name then
            return true
        end
    end
    return false
end


-- The request to make. It has no ties to the one that nginx is serving.
local function prepare(conf, ctx)
    local uri, err = core.utils.resolve_var(conf.uri, ctx.var, escape_uri)
    if not uri then
        return nil, err
    end
    -- Encoding does not help: a server decodes dots before it goes up (RFC 3986, section 5.2.4).
    if find(match(uri, "^[^?]*") .. "/", "/%.%.?/") then
        return nil, "a variable in uri is a dot segment, which would lead to another path"
    end
    local headers
    headers, err = resolve(conf.headers or {}, ctx.var)
    if not headers then
        return nil, err
    end
    local body
    body, err = resolve(conf.body, ctx.var)
    if err then
        return nil, err
    end
    if type(body) == "table" then
        body, err = core.json.encode(body)
        if not body then
            return nil, err
        end
        if not has_header(headers, "content-type") then
            headers["Content-Type"] = "application/json"
        end
    end
    return {
        conf = conf,
        uri = uri,
        params = {
            method = conf.method or (body and "POST" or "GET"),
            headers = headers,
            body = body,
        },
    }
end


local function is_success(conf, status)
    if not conf.success_statuses then
        return status >= 200 and status < 300
    end
    for i = 1, #conf.success_statuses do
        if conf.success_statuses[i] == status then
            return true
        end
    end
    return false
end


local function make(call)
    local res, err, code = mtls.request(call.conf, call.uri, call.params)
    if not res then
        return nil, err, code
    end
    if not is_success(call.conf, res.status) then
        return nil, "the endpoint answered with status " .. res.status
    end
    return res
end


local queue = queues.new(function(call)
    local res, err = make(call)
    if not res then
        core.log.error("mtls-callout: ", err)
    end
    return res ~= nil
end)


-- What the answer says, by the header or variable that it goes into. The third result is
-- "bad_argument" if there can be no such call.
local function ask(conf, ctx)
    local call, err = prepare(conf, ctx)
    if not call then
        return nil, err, "bad_argument"
    end
    local res, code
    res, err, code = make(call)
    if not res then
        return nil, err, code
    end
    local headers
    headers, err = fields.of(res, conf.set_headers)
    if not headers then
        return nil, err
    end
    local vars
    vars, err = fields.of(res, conf.set_vars)
    if not vars then
        return nil, err
    end
    return { headers = headers, vars = vars }
end


function _M.access(conf, ctx)
    if conf.phase ~= "access" then
        return
    end
    local answer, err, code = ask(conf, ctx)
    if not answer then
        core.log.error("mtls-callout: ", err)
        -- A client must not get around the call with a value that cannot be part of it.
        if not conf.allow_degradation or code == "bad_argument" then
            return conf.status_on_error
        end
        answer = { headers = {}, vars = {} }
    end
    -- One that the answer does not have is taken away: it must not be the client's.
    for name in pairs(conf.set_headers or {}) do
        core.request.set_header(ctx, name, answer.headers[name])
    end
    for name in pairs(conf.set_vars or {}) do
        ctx.var[name] = answer.vars[name]
    end
end


function _M.log(conf, ctx)
    if conf.phase ~= "log" then
        return
    end
    local call, err = prepare(conf, ctx)
    if not call then
        core.log.error("mtls-callout: ", err)
        return
    end
    queue:push(call)
end


return _M
