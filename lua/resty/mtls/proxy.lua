--- Which proxy a connection goes through, if any.

local native = require("resty.mtls.native")
local uris = require("resty.mtls.uri")

local byte = string.byte
local find = string.find
local gmatch = string.gmatch
local gsub = string.gsub
local lower = string.lower
local match = string.match
local sub = string.sub
local char = string.char
local concat = table.concat
local floor = math.floor
local getenv = os.getenv
local tonumber = tonumber
local type = type


local _M = {}


local names = {
    "http_proxy",
    "http_proxy_authorization",
    "https_proxy",
    "https_proxy_authorization",
    "no_proxy",
}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


-- ngx.encode_base64 is not there in plain LuaJIT, and a user name is short.
local function base64(text)
    local out = {}
    for i = 1, #text, 3 do
        local a, b, c = byte(text, i, i + 2)
        local bits = a * 65536 + (b or 0) * 256 + (c or 0)
        for shift = 18, 0, -6 do
            local index = floor(bits / 2 ^ shift) % 64 + 1
            out[#out + 1] = sub(ALPHABET, index, index)
        end
        if not c then
            out[#out] = "="
        end
        if not b then
            out[#out - 1] = "="
        end
    end
    return concat(out)
end


local function unescape(text)
    return (gsub(text, "%%(%x%x)", function(digits)
        return char(tonumber(digits, 16))
    end))
end


-- {scheme, host, port, authorization} of a proxy URI, which may have credentials of its own.
local function parse_proxy_uri(uri)
    if type(uri) ~= "string" then
        return nil, "bad proxy: expected a URI, got " .. type(uri)
    end
    local authorization
    local scheme, rest = match(uri, "^(%a[%w+.-]*://)(.*)$")
    local credentials, behind = match(rest or uri, "^([^/]*)@(.*)$")
    if credentials then
        authorization = "Basic " .. base64(unescape(credentials))
        uri = (scheme or "") .. behind
    end
    local other = match(uri, "^(%a[%w+.-]*)://")
    if other and lower(other) ~= "http" and lower(other) ~= "https" then
        return nil, "protocol " .. other .. " not supported for proxy connections"
    end
    local parsed, err = uris.parse(other and uri or "http://" .. uri, false)
    if not parsed then
        return nil, err
    end
    return {
        scheme = parsed[1],
        host = parsed[2],
        port = parsed[3],
        authorization = authorization,
    }
end


local function entry_matches(entry, host, port)
    local name, only_port = match(entry, "^(.-):(%d+)$")
    -- More than one colon is an IPv6 address and no port.
    if name and not find(name, ":", 1, true) or name and sub(name, -1) == "]" then
        if tonumber(only_port) ~= port then
            return false
        end
        entry = name
    end
    entry = gsub(entry, "^%[(.*)%]$", "%1")
    if find(entry, "/", 1, true) then
        return native.in_network(host, entry)
    end
    entry = gsub(entry, "^%*?%.", "")
    if entry == host then
        return true
    end
    -- A domain covers its subdomains: local.com is for www.local.com, and not for notlocal.com.
    return #host > #entry and sub(host, -#entry - 1) == "." .. entry
end


local function is_excluded(no_proxy, host, port)
    host = gsub(lower(host), "^%[(.*)%]$", "%1")
    for entry in gmatch(lower(no_proxy), "[^,%s]+") do
        if entry == "*" or entry_matches(entry, host, port) then
            return true
        end
    end
    return false
end


local function variable(...)
    for i = 1, select("#", ...) do
        local value = getenv((select(i, ...)))
        if value and value ~= "" then
            return value
        end
    end
end


--- Proxy options of a client, taken by value.
---@param options? table with `from_env = true` what is not given comes from the environment
---@return table? options
function _M.options(options)
    if type(options) ~= "table" then
        return nil
    end
    local copy = {}
    for i = 1, #names do
        local value = options[names[i]]
        -- Anything else is no proxy and no credentials.
        if type(value) == "string" then
            copy[names[i]] = value
        end
    end
    if options.from_env then
        -- A CGI program's HTTP_PROXY is a header of its client, so that curl does not read it.
        local upper_http = not getenv("REQUEST_METHOD") and "HTTP_PROXY" or "http_proxy"
        copy.http_proxy = copy.http_proxy
            or variable("http_proxy", upper_http, "all_proxy", "ALL_PROXY")
        copy.https_proxy = copy.https_proxy
            or variable("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
        copy.no_proxy = copy.no_proxy or variable("no_proxy", "NO_PROXY")
    end
    return copy
end


--- The URI of the proxy for a scheme and a host.
---@param options? table
---@param scheme string
---@param host string
---@param port? integer
---@return string? uri
function _M.uri(options, scheme, host, port)
    if not options then
        return nil
    end
    local uri
    if scheme == "https" then
        uri = options.https_proxy
    else
        uri = options.http_proxy
    end
    if not uri or uri == "" or (options.no_proxy and is_excluded(options.no_proxy, host, port)) then
        return nil
    end
    return uri
end


--- The proxy for a destination.
---@param options? table
---@param scheme string
---@param host string
---@param port integer
---@return table|false|nil proxy {scheme, host, port, authorization, tunnels}; false for none
---@return string? err
---@return table? details
function _M.select(options, scheme, host, port)
    local uri = _M.uri(options, scheme, host, port)
    if not uri then
        return false
    end
    local proxy, err = parse_proxy_uri(uri)
    if not proxy then
        return nil, err, {
            code = "bad_argument",
            stage = "options",
            hint = "give the proxy as http://host:port or https://host:port",
        }
    end
    if scheme == "https" then
        proxy.authorization = options.https_proxy_authorization or proxy.authorization
        proxy.tunnels = true
    else
        proxy.authorization = options.http_proxy_authorization or proxy.authorization
        proxy.tunnels = false
    end
    return proxy
end


--- A proxy by its URI, for the caller to say how it is used.
---@param uri string
---@return table? proxy
---@return string? err
function _M.parse(uri)
    return parse_proxy_uri(uri)
end


return _M
