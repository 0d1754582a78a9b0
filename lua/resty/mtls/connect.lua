--- Connecting: where to, through which proxy, with which TLS profile, from the pool or anew.

local destinations = require("resty.mtls.destination")
local bad_argument = require("resty.mtls.errors").bad_argument
local operation = require("resty.mtls.operation")
local proxies = require("resty.mtls.proxy")
local wait = require("resty.mtls.wait")

local find = string.find
local pcall = pcall
local sub = string.sub
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {}


-- fn(host) -> ip | nil, err
local resolver
-- Milliseconds for which an answer of getaddrinfo is used again.
local remember_names = 5000

local MAX_COUNT = 2 ^ 31

-- As lua_socket_pool_size, for a bound that names no size.
local DEFAULT_POOL_SIZE = 30


local function is_address(host)
    return find(host, ":", 1, true) or find(host, "^%d+%.%d+%.%d+%.%d+$")
end


-- The addresses to dial, nil to leave the name to getaddrinfo, or false and why not. A unix socket
-- has no host.
local function resolve(host)
    if not resolver or not host or is_address(host) then
        return nil
    end
    local ok, found, err = pcall(resolver, host)
    if not ok then
        found, err = nil, found
    end
    if type(found) == "string" then
        found = { found }
    end
    if type(found) == "table" and found[1] then
        for i = 1, #found do
            if type(found[i]) ~= "string" or not is_address(found[i]) then
                found, err = nil, "the resolver gave '" .. tostring(found[i])
                    .. "', which is no IP address"
                break
            end
        end
        if found then
            return found
        end
    end
    return false, "failed to parse domain: " .. host .. ", error: " .. tostring(err), {
        code = "dns_failed",
        stage = "resolve",
        hint = "the resolver given to set_resolver has no address for this host",
    }
end


-- No more than the native library counts to.
local function whole(number)
    return number < MAX_COUNT and number - number % 1 or MAX_COUNT
end


-- Takes an idle connection, or opens one.
local function open(self, destination, host, options)
    local mode, err, details = wait.mode()
    if not mode then
        return nil, err, details
    end
    local client = self.client
    local backlog = tonumber(options.backlog)
    if backlog and backlog >= 0 then
        backlog = whole(backlog)
    elseif backlog then
        return bad_argument("bad 'backlog': a number of at least 0")
    else
        local reused
        reused, err, details = client:check_out(destination)
        if reused == nil then
            return nil, err, details
        end
        if reused then
            return true
        end
    end
    local addresses
    addresses, err, details = resolve(host)
    if addresses == false then
        return nil, err, details
    end
    local size = backlog and (tonumber(options.pool_size) or DEFAULT_POOL_SIZE) or nil
    if size and not (size >= 1) then -- luacheck: ignore
        return bad_argument("bad 'pool_size': a number of at least 1")
    end
    size = size and whole(size)
    return operation.conclude(client, "connect", destination, addresses, remember_names, size,
        backlog)
end


local function connected(self, host, port, ssl, proxy)
    self.host = host
    self.port = port
    self.ssl = ssl
    self.keepalive = true
    self.current_response = nil
    -- For a TLS handshake later on.
    self.proxy = proxy or nil
    return true
end


-- connect{...}
local function connect_with_options(self, options)
    local scheme, host, port = destinations.endpoint(options)
    if not scheme then
        return nil, host, port
    end
    local proxy, err, details = false
    local proxy_opts = options.proxy_opts and proxies.options(options.proxy_opts)
        or self.proxy_opts
    if proxy_opts and port then
        proxy, err, details = proxies.select(proxy_opts, scheme, host, port)
        if proxy == nil then
            return nil, err, details
        end
    end
    local destination
    destination, err, details = destinations.of(options, proxy or nil)
    if not destination then
        return nil, err, details
    end
    local ok
    ok, err, details = open(self, destination, proxy and proxy.host or (port and host), options)
    if not ok then
        return nil, err, details
    end
    self.pool_size = options.pool_size
    self.pool = options.pool
    return connected(self, options.host, port, scheme == "https", proxy)
end


-- connect(host, port, opts), connect("unix:/path", opts)
local function connect_by_position(self, host, port, options)
    if type(port) == "table" then
        port, options = nil, port
    end
    if type(host) ~= "string" then
        return bad_argument("bad 'host': expected a string, got " .. type(host))
    end
    options = type(options) == "table" and options or {}
    local is_unix = sub(host, 1, 5) == "unix:"
    if not is_unix and not port then
        return bad_argument("missing the port number")
    end
    return connect_with_options(self, {
        scheme = "http",
        host = host,
        port = not is_unix and port or nil,
        pool = options.pool,
        pool_size = options.pool_size,
        backlog = options.backlog,
        -- The old forms know nothing of proxies: see connect_proxy.
        proxy_opts = {},
    })
end


function _M.connect(self, options, ...)
    if type(options) == "table" then
        return connect_with_options(self, options)
    end
    return connect_by_position(self, options, ...)
end


-- The TLS handshake on a connection that was opened without.
local function handshake(self, options)
    if not self.host then
        return nil, "not initialized"
    end
    options.scheme = "https"
    options.host = self.host
    options.port = self.port
    options.pool = self.pool
    local destination, err, details = destinations.of(options, self.proxy)
    if not destination then
        return nil, err, details
    end
    local ok
    ok, err, details = operation.conclude(self.client, "handshake", destination)
    if not ok then
        return nil, err, details
    end
    self.ssl = true
    return true
end


function _M.ssl_handshake(self, _, server_name, verify, ocsp)
    return handshake(self, {
        ssl_server_name = server_name,
        ssl_verify = verify,
        ssl_send_status_req = ocsp,
    })
end


function _M.tls_handshake(self, options)
    options = type(options) == "table" and options or {}
    return handshake(self, {
        ssl_server_name = options.server_name,
        ssl_verify = options.verify,
        ssl_send_status_req = options.ocsp_status_req,
        ssl_cert = options.client_cert,
        ssl_key = options.client_priv_key,
        ssl_cert_path = options.client_cert_path,
        ssl_key_path = options.client_priv_key_path,
        ssl_trusted_certificate = options.trusted_certificate,
    })
end


function _M.connect_proxy(self, proxy_uri, scheme, host, port, authorization)
    local proxy, err = proxies.parse(proxy_uri)
    if not proxy then
        return bad_argument(err)
    end
    if scheme ~= "https" then
        -- The caller writes requests in absolute form.
        return connect_with_options(self, {
            scheme = proxy.scheme,
            host = proxy.host,
            port = proxy.port,
            proxy_opts = {},
        })
    end
    proxy.authorization = authorization or proxy.authorization
    proxy.tunnels = true
    local destination, details
    destination, err, details = destinations.of({ scheme = "http", host = host, port = port },
        proxy)
    if not destination then
        return nil, err, details
    end
    local ok
    ok, err, details = open(self, destination, proxy.host, {})
    if not ok then
        return nil, err, details
    end
    return connected(self, host, port, false, proxy)
end


function _M.set_resolver(fn)
    if fn ~= nil and type(fn) ~= "function" then
        return bad_argument("bad resolver: expected a function, got " .. type(fn))
    end
    resolver = fn
    return true
end


--- Checked by the caller.
function _M.set_remember_names(milliseconds)
    remember_names = milliseconds
end


return _M
