--- Stand-in for apisix.core: what the plugins use of it, as APISIX 3.10 to 3.18 has it.
--
-- `stand_in` is for the specs: `hosts`, the addresses of names, and `resolved`, the names that were
-- looked up.

local check = require("apisix.schema")
local cjson = require("cjson.safe")
local strict = require("apisix.strict")

local log = {}
for level, number in pairs({ error = ngx.ERR, warn = ngx.WARN, info = ngx.INFO,
                             debug = ngx.DEBUG }) do
    log[level] = function(...)
        ngx.log(number, ...)
    end
end


local stand_in = { hosts = { localhost = "127.0.0.1" }, resolved = {} }

local resolver = {}
function resolver.parse_domain(host)
    stand_in.resolved[#stand_in.resolved + 1] = host
    if not stand_in.hosts[host] then
        return nil, "failed to parse domain"
    end
    return stand_in.hosts[host]
end


-- The specs fill it in init_by_lua.
local local_conf = { apisix = {} }

local config = {}
function config.local_conf()
    return local_conf
end


local tables = {}
function tables.try_read_attr(values, ...)
    for i = 1, select("#", ...) do
        if type(values) ~= "table" then
            return nil
        end
        values = values[(select(i, ...))]
    end
    return values
end


local utils = {}
function utils.resolve_var(template, vars, escape)
    if not template then
        return template, nil, 0
    end
    local resolved = 0
    local text, _, err = ngx.re.gsub(template, [[(?<!\\)\$(\{(\w+)\}|(\w+))]], function(found)
        local value = vars[found[2] or found[3]]
        if value == nil then
            return ""
        end
        resolved = resolved + 1
        return escape and escape(tostring(value)) or tostring(value)
    end, "jo")
    return text, err, resolved
end


function utils.check_tls_bool(names, conf, plugin)
    for _, name in ipairs(names) do
        local value = conf
        for part in name:gmatch("[^.]+") do
            value = tables.try_read_attr(value, part)
        end
        if value == false then
            log.warn("Keeping ", name, " disabled in ", plugin, " configuration is a security risk")
        end
    end
end


local request = {}
function request.get_scheme(ctx)
    return ctx.var.scheme
end


function request.get_method()
    return ngx.req.get_method()
end


function request.get_host(ctx)
    return ctx.var.host
end


function request.get_remote_client_ip(ctx)
    return ctx.var.remote_addr
end


function request.header(_, name)
    local value = ngx.req.get_headers()[name]
    return type(value) == "table" and value[1] or value
end


function request.set_header(ctx, name, value)
    assert(type(ctx) == "table" and type(name) == "string")
    ngx.req.set_header(name, value)
end


function request.get_body(max_size)
    ngx.req.read_body()
    local body = ngx.req.get_body_data()
    if body and #body > max_size then
        return nil, "request size " .. #body .. " is greater than the maximum size " .. max_size
            .. " allowed"
    end
    return body
end


local response = {}
function response.set_header(headers)
    assert(type(headers) == "table")
    for name, value in pairs(headers) do
        ngx.header[name] = value
    end
end


return strict("apisix.core", {
    stand_in = stand_in,
    log = strict("apisix.core.log", log),
    json = strict("apisix.core.json", { encode = cjson.encode, decode = cjson.decode }),
    config = strict("apisix.core.config", config),
    resolver = strict("apisix.core.resolver", resolver),
    table = strict("apisix.core.table", tables),
    utils = strict("apisix.core.utils", utils),
    request = strict("apisix.core.request", request),
    response = strict("apisix.core.response", response),
    schema = strict("apisix.core.schema", {
        check = check,
        id_schema = {
            anyOf = {
                { type = "string", minLength = 1, maxLength = 64, pattern = "^[a-zA-Z0-9-_.]+$" },
                { type = "integer", minimum = 1 },
            },
        },
    }),
})
