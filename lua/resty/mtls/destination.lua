--- From connect options to a destination: where, whom to trust, and as whom.
--
-- Cached as the profile is. What is authenticated differently is never the same destination: the
-- native library compares it by content when a connection is looked for in the pool.

local bad_argument = require("resty.mtls.errors").bad_argument
local caches = require("resty.mtls.cache")
local native = require("resty.mtls.native")
local tls_profiles = require("resty.mtls.profile")

local find = string.find
local sub = string.sub
local tonumber = tonumber
local type = type


local _M = {}


local identity_options = tls_profiles.identity_options

-- Stands for the profile of a destination without TLS as a table key.
local PLAIN = {}

local destinations = caches.new()


local function check_version(version)
    if version ~= nil and version ~= 1.1 and version ~= 2 and version ~= "auto" then
        return bad_argument("bad 'http_version': 1.1, 2 or \"auto\"")
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
    return PLAIN
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
        given.profile, err, details = tls_profiles.of(tls_profiles.trust_of(options))
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
        http_version = options.http_version,
    }
    if profile ~= PLAIN then
        given.profile = profile
    elseif given.http_version == "auto" then
        -- Without TLS nobody says what the server prefers.
        given.http_version = nil
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
        profile, err, details = tls_profiles.of(options)
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
        .. (pool and "=" .. pool or "") .. "\0" .. (options.http_version or "")
    if proxy then
        key = key .. "\0" .. proxy.scheme .. "\0" .. proxy.host .. "\0" .. proxy.port .. "\0"
            .. (proxy.authorization or "") .. (proxy.tunnels and "\0tunnel" or "")
    end
    -- An https proxy is trusted as this call says, also where the destination itself is plain.
    local is_cached = not (proxy and proxy.scheme == "https")
    local by_profile = destinations.young[profile]
    local destination = is_cached and by_profile and by_profile[key]
    if destination then
        return destination, scheme, port
    end
    by_profile = destinations.old[profile]
    destination = is_cached and by_profile and by_profile[key]
    if not destination then
        destination, err, details = new_destination(profile, host, port, server_name, pool,
            proxy, options)
    end
    if not destination then
        return nil, err, details
    end
    if is_cached then
        caches.adds(destinations)
        by_profile = destinations.young[profile] or {}
        destinations.young[profile] = by_profile
        by_profile[key] = destination
    end
    return destination, scheme, port
end


--- Sets what applies to every later call that does not say otherwise. Checked by the caller.
---@param name "ssl_verify"|"ssl_trusted_certificate"|"allow_keylog"
---@param value boolean|string|string[]
function _M.set_default(name, value)
    tls_profiles.set_default(name, value)
    caches.clear(destinations)
end


return _M
