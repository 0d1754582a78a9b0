--- From connect options to a destination: where, whom to trust, and as whom.
--
-- Both steps are cached by the options themselves. LuaJIT keeps one copy of equal strings, so that
-- looking a PEM text up compares a pointer, and an unchanged profile costs neither parsing nor
-- hashing. What is authenticated differently is never the same destination: the native library
-- compares it by content when a connection is looked for in the pool.

local log = require("resty.mtls.log")
local native = require("resty.mtls.native")
local openssl = require("resty.mtls.openssl")

local find = string.find
local sub = string.sub
local tonumber = tonumber
local type = type


local _M = {}


-- Whom a server is to be trusted by, which goes for an https proxy as well.
local trust_options = {
    "ssl_verify",
    "ssl_trusted_certificate",
    "ssl_crl",
    "ssl_min_version",
    "ssl_max_version",
    "ssl_session_reuse",
}

-- Those that come first are the ones that tell most profiles apart.
local profile_options = {
    "ssl_cert",
    "ssl_key",
    "ssl_cert_path",
    "ssl_key_path",
    "ssl_client_cert",
    "ssl_client_priv_key",
    "ssl_pkcs12",
    "ssl_key_password",
    "ssl_pinned_pubkey",
    unpack(trust_options),
}

local identity_options = {
    "ssl_cert",
    "ssl_key",
    "ssl_cert_path",
    "ssl_key_path",
    "ssl_client_cert",
    "ssl_client_priv_key",
    "ssl_pkcs12",
    "ssl_key_password",
}

-- These may be objects of ngx.ssl's.
local object_readers = {
    ssl_cert = openssl.certificates,
    ssl_key = openssl.private_key,
    ssl_client_cert = openssl.certificates,
    ssl_client_priv_key = openssl.private_key,
}

-- Beyond so many entries a cache starts over: option values of some callers never repeat.
local MAX_CACHED = 1000

-- Stand for nil, NaN, and the beginning and the end of a list as table keys.
local NONE, NAN, LIST, LIST_END = {}, {}, {}, {}
-- Under this key a cache has the profile itself.
local PROFILE = {}

local defaults = {}
local profiles, profile_count = {}, 0
local destinations, destination_count = {}, 0


local function bad_argument(message)
    return nil, message, {
        code = "bad_argument",
        stage = "options",
        hint = "correct the option that the message names",
    }
end


local function warn_unverified()
    if not native.warn_unverified() then
        return
    end
    log.write("warn", "ssl_verify is false: servers are not authenticated, and what is sent can "
        .. "be read by whoever is in between (this warning is given once per process)")
end


local function option(options, name)
    local value = options[name]
    -- A C pointer to nothing equals nil, and is a mistake: no certificate would be sent.
    if type(value) == "nil" then
        return defaults[name]
    end
    return value
end


local function key_of(value)
    if type(value) == "nil" then
        return NONE
    elseif value ~= value then
        return NAN
    end
    return value
end


-- The node behind a value: a table for each value on the way, and for each item of a list.
local function follow(node, value, step)
    if type(value) ~= "table" then
        return step(node, key_of(value))
    end
    node = step(node, LIST)
    for i = 1, node and #value or 0 do
        node = node and step(node, key_of(value[i]))
    end
    return node and step(node, LIST_END)
end


local function look_up(node, key)
    return node[key]
end


local function look_up_or_add(node, key)
    local found = node[key]
    if not found then
        found = {}
        node[key] = found
    end
    return found
end


-- Only what has become a profile is remembered: options that are wrong may never repeat.
local function remember_profile(given, profile)
    profile_count = profile_count + 1
    if profile_count > MAX_CACHED then
        profiles, profile_count = {}, 1
    end
    local node = profiles
    for i = 1, #profile_options do
        node = follow(node, given[profile_options[i]], look_up_or_add)
    end
    node[PROFILE] = profile
end


-- An option's value, and the text of what came as an object of ngx.ssl's.
local function text_option(options, name)
    local value = option(options, name)
    local reader = object_readers[name]
    if reader and openssl.is_cdata(value) then
        return reader(value)
    end
    return value
end


-- Allocates nothing: this is on the way of every request.
local function known_profile(options)
    local node = profiles
    for i = 1, #profile_options do
        local value, err = text_option(options, profile_options[i])
        node = not err and follow(node, value, look_up)
        if not node then
            return nil
        end
    end
    return node[PROFILE]
end


local function new_profile(options)
    local given = {}
    for i = 1, #profile_options do
        local name = profile_options[i]
        local value, err = text_option(options, name)
        if err then
            return bad_argument("bad '" .. name .. "': " .. err)
        end
        given[name] = value
    end
    local profile, err, details = native.profile(given)
    if not profile then
        return nil, err, details
    end
    if given.ssl_verify == false then
        warn_unverified()
    end
    remember_profile(given, profile)
    return profile
end


local function profile_of(options)
    local profile = known_profile(options)
    if profile then
        return profile
    end
    return new_profile(options)
end


local function check_version(version)
    if version ~= nil and version ~= 1.1 then
        return bad_argument("bad 'http_version': only 1.1 is supported")
    end
    return true
end


local function check_port(port)
    return type(port) == "number" and port >= 1 and port <= 65535 and port % 1 == 0
end


--- The scheme, host and port of connect options. For a unix socket the host is its path and the
--- port is nil.
---@param options table
---@return string? scheme
---@return string host_or_err
---@return integer|table|nil port_or_details
function _M.endpoint(options)
    local scheme, host, port = options.scheme, options.host, options.port
    if type(host) ~= "string" then
        return bad_argument("bad 'host': expected a string, got " .. type(host))
    end
    if scheme ~= nil and scheme ~= "http" and scheme ~= "https" then
        return bad_argument("bad 'scheme': http or https")
    end
    if sub(host, 1, 5) == "unix:" then
        local path = sub(host, 6)
        if path == "" or find(path, "%z") then
            return bad_argument("bad 'host': unix: has to be followed by the path of a socket")
        end
        return scheme or "http", path, nil
    end
    -- What ends a host in a URI, and what no name has, is a mistake that DNS would hide.
    if host == "" or find(host, "[%c%s/@?#\\]") then
        return bad_argument("bad 'host': neither a host name nor an IP address")
    end
    if scheme and not port then
        return scheme, host, scheme == "https" and 443 or 80
    end
    if not scheme then
        return bad_argument(port and "'scheme' is required when providing a port"
            or "'scheme' is required for a host that is not a unix socket")
    end
    if type(port) == "string" and find(port, "^%d+$") then
        port = tonumber(port)
    end
    if not check_port(port) then
        return bad_argument("bad 'port': a number from 1 to 65535")
    end
    return scheme, host, port
end


local function check_plain(options)
    for i = 1, #identity_options do
        local name = identity_options[i]
        if type(options[name]) ~= "nil" then
            return bad_argument("'" .. name .. "' needs scheme https: over http no client "
                .. "certificate can be sent")
        end
    end
    return NONE
end


-- A proxy that speaks TLS is trusted as the destination is. It is not offered the client identity,
-- which is for the destination.
local function proxy_table(proxy, options)
    local given = {
        host = proxy.host,
        port = proxy.port,
        authorization = proxy.authorization,
        tunnels = proxy.tunnels,
    }
    if proxy.scheme == "https" then
        local err, details
        local trust = {}
        for i = 1, #trust_options do
            trust[trust_options[i]] = options[trust_options[i]]
        end
        given.profile, err, details = profile_of(trust)
        if not given.profile then
            return nil, err, details
        end
    end
    return given
end


local function new_destination(profile, host, port, server_name, pool, proxy, options)
    local given = {
        host = host,
        port = port,
        server_name = server_name,
        pool = pool,
    }
    if profile ~= NONE then
        given.profile = profile
    end
    if proxy then
        local err, details
        given.proxy, err, details = proxy_table(proxy, options)
        if not given.proxy then
            return nil, err, details
        end
    end
    return native.destination(given)
end


--- The destination that connect options describe.
---@param options table see `connect` in resty.mtls.http
---@param proxy? table from `resty.mtls.proxy`
---@return userdata? destination
---@return string err_or_scheme the scheme on success
---@return table|integer|nil details_or_port the port on success, nil for a unix socket
function _M.of(options, proxy)
    local scheme, host, port = _M.endpoint(options)
    if not scheme then
        return nil, host, port
    end
    local profile, err, details = check_version(options.http_version)
    if profile and scheme == "https" then
        profile, err, details = profile_of(options)
    elseif profile then
        profile, err, details = check_plain(options)
    end
    if not profile then
        return nil, err, details
    end

    local server_name = scheme == "https" and options.ssl_server_name or nil
    if server_name ~= nil and type(server_name) ~= "string" then
        return bad_argument("bad 'ssl_server_name': expected a string, got " .. type(server_name))
    end
    local pool = options.pool
    if pool ~= nil and type(pool) ~= "string" then
        return bad_argument("bad 'pool': expected a string, got " .. type(pool))
    end
    if find(pool or "", "%z") or find(server_name or "", "%z") then
        return bad_argument("bad 'pool' or 'ssl_server_name': a NUL byte in it")
    end

    -- NUL is in none of them that could be connected to.
    local key = host .. "\0" .. (port or "") .. "\0" .. (server_name or "") .. "\0"
        .. (pool and "=" .. pool or "")
    if proxy then
        key = key .. "\0" .. proxy.scheme .. "\0" .. proxy.host .. "\0" .. proxy.port .. "\0"
            .. (proxy.authorization or "") .. (proxy.tunnels and "\0tunnel" or "")
    end
    -- An https proxy is trusted as this call says, also where the destination itself is plain.
    local is_cached = not (proxy and proxy.scheme == "https")
    local by_profile = destinations[profile]
    local destination = is_cached and by_profile and by_profile[key]
    if destination then
        return destination, scheme, port
    end
    destination, err, details = new_destination(profile, host, port, server_name, pool, proxy,
        options)
    if not destination then
        return nil, err, details
    end
    if is_cached then
        destination_count = destination_count + 1
        if destination_count > MAX_CACHED then
            destinations, destination_count = {}, 1
        end
        by_profile = destinations[profile] or {}
        destinations[profile] = by_profile
        by_profile[key] = destination
    end
    return destination, scheme, port
end


--- Sets what applies to every later call that does not say otherwise. Checked by the caller.
---@param name "ssl_verify"|"ssl_trusted_certificate"|"allow_keylog"
---@param value boolean|string|string[]
function _M.set_default(name, value)
    -- The caller's table may change.
    defaults[name] = type(value) == "table" and { unpack(value) } or value
    -- What the native library was told changes the profiles that it makes from now on.
    profiles, profile_count = {}, 0
    destinations, destination_count = {}, 0
end


return _M
