--- resty.http's API over the native library.
--
-- Functions return what resty.http's do. On failure there is a third value, a table
-- `{code, stage, alert, hint}`: a stable code, the step that failed, the number of the TLS alert if
-- the server sent one, and what to do about it. Nothing is raised as a Lua error.

local destinations = require("resty.mtls.destination")
local native = require("resty.mtls.native")
local responses = require("resty.mtls.response")
local uris = require("resty.mtls.uri")
local wait = require("resty.mtls.wait")

local pairs = pairs
local setmetatable = setmetatable
local tonumber = tonumber
local type = type
local upper = string.upper


local _M = {
    _VERSION = native.version,
}
_M._USER_AGENT = "lua-resty-mtls/" .. _M._VERSION .. " (Lua)"

local mt = { __index = _M }


-- Milliseconds; as lua_socket_connect_timeout and its siblings in ngx_lua.
local DEFAULT_TIMEOUT = 60000
-- Milliseconds and connections; as lua_socket_keepalive_timeout and lua_socket_pool_size.
local DEFAULT_KEEPALIVE = 60000
local DEFAULT_POOL_SIZE = 30
-- What nginx takes for a time-out.
local MAX_TIMEOUT = 0x7fffffff


---@class resty.mtls.http
---@field keepalive boolean whether the connection may be kept after this request
---@field ssl boolean? whether the connection is TLS
---@field host string? host of the last `connect`
---@field port integer? port of the last `connect`; nil for a unix socket

---@class resty.mtls.details
---@field code string one of the codes in README.md, for example `client_certificate_required`
---@field stage "options"|"resolve"|"connect"|"tls"|"send"|"response"|"body"
---@field alert integer? number of the TLS alert that the server sent
---@field hint string? what to do about it

---@class resty.mtls.response
---@field status integer
---@field reason string
---@field headers table<string, string|string[]> in the server's spelling; found in any letter case
---@field has_body boolean
---@field body string? after `request_uri`
---@field body_reader fun(max?: integer): string?, string?, resty.mtls.details?
---@field read_body fun(self: resty.mtls.response): string?, string?, resty.mtls.details?

---@class resty.mtls.connect_options
---@field scheme? "http"|"https"
---@field host string host name, address, or unix:/path
---@field port? integer 80 or 443 by default
---@field pool? string narrows the sharing of idle connections to callers with the same name
---@field ssl_verify? boolean verify the server's certificate; true by default
---@field ssl_server_name? string SNI and the name to verify; `host` by default
---@field ssl_cert? string PEM certificate, its chain behind it
---@field ssl_key? string PEM key of the certificate
---@field ssl_cert_path? string file with what `ssl_cert` takes
---@field ssl_key_path? string file with what `ssl_key` takes
---@field ssl_client_cert? string another name of `ssl_cert`
---@field ssl_client_priv_key? string another name of `ssl_key`
---@field ssl_trusted_certificate? string PEM CAs, or a file of them; the system's by default

---@class resty.mtls.request_params
---@field method? string GET by default
---@field path? string / by default
---@field query? string|table
---@field headers? table<string, string|number|string[]>
---@field body? string|string[]|fun(): string?, string?
---@field version? number 1.1 by default, or 1.0
---@field use_default_user_agent? boolean false sends no User-Agent unless one is in `headers`
---@field retry_stale? boolean false never sends a request again whose pooled connection was dead
---@field max_header_size? integer bytes of the response head; 65536 by default
---@field max_headers? integer header lines of the response; 100 by default, 1000 at the most
---@field max_body_size? integer bytes of the response body; unlimited by default


--- A client, without a connection.
---@return resty.mtls.http
function _M.new()
    return setmetatable({
        client = native.client(),
        keepalive = true,
        connect_timeout = DEFAULT_TIMEOUT,
        send_timeout = DEFAULT_TIMEOUT,
        read_timeout = DEFAULT_TIMEOUT,
    }, mt)
end


local function to_timeout(milliseconds)
    milliseconds = tonumber(milliseconds)
    if not milliseconds or milliseconds <= 0 then
        return DEFAULT_TIMEOUT
    end
    return milliseconds < MAX_TIMEOUT and milliseconds or MAX_TIMEOUT
end


--- Sets all time-outs.
---@param timeout integer? milliseconds; 60000 if nil or 0
function _M:set_timeout(timeout)
    self:set_timeouts(timeout, timeout, timeout)
end


--- Sets the time-outs.
---@param connect integer? milliseconds for name and TCP, and once more for the TLS handshake
---@param send integer? milliseconds between two moments at which the server takes bytes
---@param read integer? milliseconds for the response head, then between two reads of the body
function _M:set_timeouts(connect, send, read)
    self.connect_timeout = to_timeout(connect)
    self.send_timeout = to_timeout(send)
    self.read_timeout = to_timeout(read)
end


-- Begins an operation and waits for it. `begin` is a method of the native client.
local function operate(self, begin, ...)
    local mode, err, details = wait.mode()
    if not mode then
        return nil, err, details
    end
    local client = self.client
    local mailbox, id = wait.operation()
    local ok
    ok, err, details = client[begin](client, mailbox, id, ...)
    if not ok then
        return nil, err, details
    end
    return wait.finish(mode, id)
end


--- Connects, or takes an idle connection to the same destination under the same TLS profile.
---@param options resty.mtls.connect_options
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:connect(options)
    if type(options) ~= "table" then
        return nil, "bad argument: expected a table of options, got " .. type(options), {
            code = "bad_argument",
            stage = "options",
            hint = "call connect{ scheme = ..., host = ..., port = ... }",
        }
    end
    local destination, scheme, port = destinations.of(options)
    if not destination then
        return nil, scheme, port
    end
    local mode, err, details = wait.mode()
    if not mode then
        return nil, err, details
    end

    local reused
    reused, err, details = self.client:check_out(destination)
    if reused == nil then
        return nil, err, details
    end
    if not reused then
        local ok
        ok, err, details = operate(self, "connect", destination, self.connect_timeout,
            self.send_timeout, self.read_timeout)
        if ok then
            ok, err, details = self.client:outcome()
        end
        if not ok then
            return nil, err, details
        end
    end
    self.host = options.host
    self.port = port
    self.ssl = scheme == "https"
    self.keepalive = true
    self.current_response = nil
    return true
end


--- Sends a request on the connection and reads the head of its response.
---@param params resty.mtls.request_params
---@return resty.mtls.response? res
---@return string? err
---@return resty.mtls.details? details
function _M:request(params)
    params = params or {}
    self.current_response = nil
    if type(params.body) == "function" then
        local ok, err, details = self:send_request(params)
        if not ok then
            return nil, err, details
        end
        return self:read_response(params)
    end
    local ok, err, details = operate(self, "request", params, _M._USER_AGENT,
        self.connect_timeout, self.send_timeout, self.read_timeout)
    if not ok then
        return nil, err, details
    end
    return responses.new(self, upper(params.method or "GET"))
end


local function send(self, begin, ...)
    local ok, err, details = operate(self, begin, ...)
    if ok then
        ok, err, details = self.client:outcome()
    end
    return ok, err, details
end


local function send_body(self, body)
    while true do
        local chunk, err = body()
        if not chunk then
            if err ~= nil then
                return nil, err
            end
            return true
        end
        local ok, details
        ok, err, details = send(self, "send", chunk, self.send_timeout)
        if not ok then
            return nil, err, details
        end
    end
end


--- Sends a request and reads nothing.
---@param params resty.mtls.request_params
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:send_request(params)
    local ok, err, details = send(self, "send_request", params, _M._USER_AGENT, self.send_timeout)
    if ok and type(params.body) == "function" then
        ok, err, details = send_body(self, params.body)
    end
    if not ok then
        return nil, err, details
    end
    return true
end


--- Reads the head of the response to `send_request`.
---@param params resty.mtls.request_params the same as for the request
---@return resty.mtls.response? res
---@return string? err
---@return resty.mtls.details? details
function _M:read_response(params)
    params = params or {}
    local ok, err, details = operate(self, "receive", params, self.read_timeout)
    if not ok then
        return nil, err, details
    end
    return responses.new(self, upper(params.method or "GET"))
end


--- Connects, requests, reads the body, and keeps or closes the connection.
---@param uri string
---@param params? resty.mtls.request_params|resty.mtls.connect_options both in one table, and
---`keepalive` (false closes), `keepalive_timeout` (milliseconds), `keepalive_pool` (connections)
---@return resty.mtls.response? res with `body`
---@return string? err
---@return resty.mtls.details? details
function _M:request_uri(uri, params)
    local parsed, err = self:parse_uri(uri, false)
    if not parsed then
        return nil, err, { code = "bad_argument", stage = "options", hint = "give an http URI" }
    end
    local given = {}
    for name, value in pairs(params or {}) do
        given[name] = value
    end
    given.scheme, given.host, given.port = parsed[1], parsed[2], parsed[3]
    given.path = given.path or parsed[4]
    given.query = given.query or parsed[5]

    local ok, details
    ok, err, details = self:connect(given)
    if not ok then
        return nil, err, details
    end
    local res
    res, err, details = self:request(given)
    if not res then
        self:close()
        return nil, err, details
    end
    local body
    body, err, details = res:read_body()
    if not body then
        self:close()
        return nil, err, details
    end
    res.body = body
    res.read_body = function()
        return body
    end
    if given.keepalive == false then
        self:close()
    else
        self:set_keepalive(given.keepalive_timeout, given.keepalive_pool)
    end
    return res
end


--- Splits an http or https URI.
---@param uri string
---@param query_in_path? boolean leave the query in the path; true unless it is false
---@return table? parsed {scheme, host, port, path, query}
---@return string? err
function _M.parse_uri(_, uri, query_in_path)
    return uris.parse(uri, query_in_path)
end


local released = {
    pooled = { 1 },
    closed = { 2, "connection must be closed" },
    unread = { nil, "unread data in buffer: the response's body was not read to its end" },
    none = { nil, "closed" },
}


--- Gives the connection to the pool. One whose server wants it closed is closed.
---@param idle_timeout? integer milliseconds; 60000 if nil, 0 for ever
---@param pool_size? integer idle connections to keep for this destination; 30 if nil
---@return 1|2|nil result 2 if the connection had to be closed
---@return string? err
function _M:set_keepalive(idle_timeout, pool_size)
    -- A pool that is filled in the master would be copied into every worker, with its sockets.
    if self.keepalive ~= true or (ngx and ngx.get_phase and ngx.get_phase() == "init") then
        local ok, err = self:close()
        if not ok then
            return nil, err
        end
        return 2, "connection must be closed"
    end
    local result, err, details = self.client:keep_alive(idle_timeout or DEFAULT_KEEPALIVE,
        pool_size or DEFAULT_POOL_SIZE)
    if not result then
        return nil, err, details
    end
    local values = released[result]
    if values[2] then
        return values[1], values[2]
    end
    return values[1]
end


--- How often the connection came out of the pool.
---@return integer? times
---@return string? err
function _M:get_reused_times()
    local times, err = self.client:reused_times()
    if not times then
        return nil, err or "closed"
    end
    return times
end


--- Closes the connection, and ends what another light thread does on it.
---@return 1|nil result
---@return string? err
function _M:close()
    local closed, err = self.client:close()
    if not closed then
        return nil, err or "closed"
    end
    return 1
end


--- Sets what applies to every later call that does not say otherwise.
---@param options {ssl_verify?: boolean, ssl_trusted_certificate?: string}
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M.set_defaults(options)
    return destinations.set_defaults(options)
end


--- Counters of this process.
---@return table<string, integer>
function _M.stats()
    return native.stats()
end


return _M
