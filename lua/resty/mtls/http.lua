--- resty.http's API over the native library.
--
-- Functions return what resty.http's do. Where one fails that talks to a server there is a third
-- value, a table `{code, stage, alert, hint}`: a stable code, the step that failed, the number of
-- the TLS alert if the server sent one, and what to do about it. Nothing is raised as a Lua error.

local native = require("resty.mtls.native")

-- As in src/binding/mod.rs. Files that do not belong together would fail at the first call that
-- uses what the others do not have.
local INTERFACE = 1
if native.interface ~= INTERFACE then
    error("resty.mtls: native.so and the Lua files are of different versions: run make build and "
        .. "make install, then restart nginx (a reload keeps the library that is loaded)", 0)
end

local connecting = require("resty.mtls.connect")
local destinations = require("resty.mtls.destination")
local diagnosis = require("resty.mtls.diagnose")
local bad_argument = require("resty.mtls.errors").bad_argument
local failures = require("resty.mtls.failure")
local pipelining = require("resty.mtls.pipeline")
local proxies = require("resty.mtls.proxy")
local requests = require("resty.mtls.request")
local serving = require("resty.mtls.serving")
local steps = require("resty.mtls.steps")
local uris = require("resty.mtls.uri")

local find = string.find
local lower = string.lower
local pairs = pairs
local select = select
local setmetatable = setmetatable
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {
    _VERSION = native.version,
}
_M._USER_AGENT = "lua-resty-mtls/" .. _M._VERSION .. " (Lua)"

local mt = { __index = _M }


-- Methods that are called on the module itself, for want of `new`.
_M.client = setmetatable({}, {
    __index = function()
        return function()
            return nil, "not initialized"
        end
    end,
})


-- Milliseconds; as lua_socket_connect_timeout and its siblings in ngx_lua.
local DEFAULT_TIMEOUT = 60000
-- Milliseconds and connections; as lua_socket_keepalive_timeout and lua_socket_pool_size.
local DEFAULT_KEEPALIVE = 60000
local DEFAULT_POOL_SIZE = 30
-- What nginx takes for a time-out.
local MAX_TIMEOUT = 0x7fffffff

-- Defaults that `set_defaults` takes.
local default_types = {
    ssl_verify = "boolean",
    ssl_trusted_certificate = "string or a list of strings",
    allow_keylog = "boolean",
    dns_cache_time = "number",
    log_failures = "boolean",
}


---@class resty.mtls.http
---@field keepalive boolean whether the connection may be kept after this request
---@field ssl boolean? whether the connection is TLS
---@field host string? host of the last `connect`
---@field port integer? port of the last `connect`; nil for a unix socket

--- A client, without a connection.
---@return resty.mtls.http
function _M.new()
    return setmetatable({ client = native.client(), keepalive = true }, mt)
end


local function to_timeout(milliseconds)
    milliseconds = tonumber(milliseconds)
    if not milliseconds or milliseconds < 1 then
        return DEFAULT_TIMEOUT
    end
    return milliseconds < MAX_TIMEOUT and milliseconds - milliseconds % 1 or MAX_TIMEOUT
end


--- Sets all time-outs.
---@param timeout integer? milliseconds; 60000 if nil or 0
function _M:set_timeout(timeout)
    return self:set_timeouts(timeout, timeout, timeout)
end


--- Sets the time-outs.
---@param connect integer? milliseconds for name and TCP, and once more for the TLS handshake
---@param send integer? milliseconds between two moments at which the server takes bytes
---@param read integer? milliseconds for the response head, then between two reads of the body
function _M:set_timeouts(connect, send, read)
    return self.client:set_timeouts(to_timeout(connect), to_timeout(send), to_timeout(read))
end


local function set_deadline(self, milliseconds)
    self.has_deadline = milliseconds ~= nil
    self.client:set_deadline(milliseconds)
end


-- What the old forms of connect name, as an option table.
local function as_options(host, port)
    if type(host) == "table" then
        return host
    end
    return { scheme = "http", host = host, port = type(port) ~= "table" and port or nil }
end


local function connect(self, options, ...)
    if _M.debugging then
        steps.connecting(as_options(options, ...))
    end
    local ok, err, details = connecting.connect(self, options, ...)
    if _M.debugging then
        steps.connected(self, ok, details)
    end
    if not ok then
        return failures.note(self, err, details, as_options(options, ...))
    end
    -- As with cosockets that keep no session: they are resumed without the caller's help.
    if self.ssl then
        return true, nil, true
    end
    return true
end


--- Connects, or takes an idle connection to the same destination under the same TLS profile.
---
--- The old forms `connect(host, port, options?)` and `connect("unix:/path", options?)` connect
--- without TLS; `ssl_handshake` may follow.
---@param options resty.mtls.connect_options|string
---@param ... any
---@return true? ok
---@return string? err
---@return resty.mtls.details|true|nil details true behind a TLS connection, in place of a session
function _M:connect(options, ...)
    if self.has_deadline then
        -- Of a request_uri whose light thread was killed.
        set_deadline(self, nil)
    end
    failures.begin(self)
    return connect(self, options, ...)
end


--- The old form of `connect`.
---@param host string
---@param port? integer
---@param options? {pool?: string, pool_size?: integer, backlog?: integer}
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:tcp_only_connect(host, port, options)
    return self:connect(host, port, options)
end


local function shaken(self, ok, err, details)
    if not ok then
        return failures.note(self, err, details,
            { scheme = "https", host = self.host, port = self.port })
    end
    if _M.debugging then
        steps.shaken(self)
    end
    return true
end


--- Runs the TLS handshake after the old form of `connect`.
---@param session any ignored: sessions are resumed by themselves
---@param server_name? string the host by default
---@param verify? boolean true by default
---@param send_status_req? boolean
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:ssl_handshake(session, server_name, verify, send_status_req)
    failures.begin(self)
    return shaken(self, connecting.ssl_handshake(self, session, server_name, verify,
        send_status_req))
end


--- Runs the TLS handshake after the old form of `connect`, with a client certificate.
---@param options {server_name?: string, verify?: boolean, client_cert?: string,
---client_priv_key?: string, client_cert_path?: string, client_priv_key_path?: string}
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:tls_handshake(options)
    failures.begin(self)
    return shaken(self, connecting.tls_handshake(self, options))
end


--- Connects to a proxy and, for https, has it open a tunnel; `ssl_handshake` may follow. For http,
--- the caller writes the paths of requests in absolute form.
---@param proxy_uri string
---@param scheme "http"|"https" of the destination
---@param host string
---@param port integer
---@param authorization? string value of Proxy-Authorization
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:connect_proxy(proxy_uri, scheme, host, port, authorization)
    failures.begin(self)
    local ok, err, details = connecting.connect_proxy(self, proxy_uri, scheme, host, port,
        authorization)
    if not ok then
        return failures.note(self, err, details, { scheme = scheme, host = host, port = port })
    end
    return true
end


--- Sets the proxies of this client.
---@param options? resty.mtls.proxy_options
function _M:set_proxy_options(options)
    self.proxy_opts = proxies.options(options)
end


--- The proxy that a request to this scheme and host would go through.
---@param scheme "http"|"https"
---@param host string
---@return string? uri
function _M:get_proxy_uri(scheme, host)
    return proxies.uri(self.proxy_opts, scheme, host)
end


local function check_params(self, params)
    if params ~= nil and type(params) ~= "table" then
        return failures.note(self,
            select(2, bad_argument("bad request parameters: expected a table, got "
                .. type(params))))
    end
    return params or {}
end


-- Not of `request_uri`, of whose time it is a part.
local function request(self, params)
    local res, err, details = requests.request(self, params)
    if not res then
        return failures.note(self, err, details)
    end
    return res
end


--- Sends a request on the connection and reads the head of its response.
---@param params resty.mtls.request_params
---@return resty.mtls.response? res
---@return string? err
---@return resty.mtls.details? details
function _M:request(params)
    local checked, err, details = check_params(self, params)
    if not checked then
        return nil, err, details
    end
    failures.begin(self)
    return request(self, checked)
end


--- Sends a request and reads nothing.
---@param params resty.mtls.request_params
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M:send_request(params)
    local checked, ok, err, details
    checked, err, details = check_params(self, params)
    if not checked then
        return nil, err, details
    end
    failures.begin(self)
    ok, err, details = requests.send(self, checked)
    if not ok then
        return failures.note(self, err, details)
    end
    return true
end


--- Reads the head of the response to `send_request`.
---@param params resty.mtls.request_params the same as for the request
---@return resty.mtls.response? res
---@return string? err
---@return resty.mtls.details? details
function _M:read_response(params)
    local checked, res, err, details
    checked, err, details = check_params(self, params)
    if not checked then
        return nil, err, details
    end
    res, err, details = requests.receive(self, checked)
    if not res then
        return failures.note(self, err, details)
    end
    return res
end


--- Sends several requests before it reads the first response. A response is read when a field of it
--- is first touched, and those before it with it.
---@param requests_params resty.mtls.request_params[]
---@return resty.mtls.response[]? responses
---@return string? err
---@return resty.mtls.details? details
function _M:request_pipeline(requests_params)
    local checked, responses, err, details
    checked, err, details = check_params(self, requests_params)
    if not checked then
        return nil, err, details
    end
    failures.begin(self)
    responses, err, details = pipelining.request(self, checked)
    if not responses then
        return failures.note(self, err, details)
    end
    return responses
end


-- Credentials for a proxy that were given as a header of the request go to the proxy only.
local function take_proxy_authorization(self, given)
    local proxy_opts = given.proxy_opts or self.proxy_opts
    if not proxy_opts or type(given.headers) ~= "table" then
        return
    end
    local headers, authorization = {}, nil
    for name, value in pairs(given.headers) do
        if lower(tostring(name)) == "proxy-authorization" then
            authorization = type(value) == "table" and value[1] or value
        else
            headers[name] = value
        end
    end
    if authorization then
        given.headers = headers
        given.proxy_opts = proxies.options(proxy_opts)
        given.proxy_opts.http_proxy_authorization = authorization
        given.proxy_opts.https_proxy_authorization = authorization
    end
end


local function request_and_read(self, given)
    local ok, err, details = connect(self, given)
    if not ok then
        return nil, err, details
    end
    local res
    res, err, details = request(self, given)
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


--- Connects, requests, reads the body, and keeps or closes the connection.
---@param uri string
---@param params? resty.mtls.request_params|resty.mtls.connect_options both in one table, and
---`keepalive` (false closes), `keepalive_timeout` (milliseconds), `keepalive_pool` (connections),
---`deadline` (milliseconds for all of it)
---@return resty.mtls.response? res with `body`
---@return string? err
---@return resty.mtls.details? details
function _M:request_uri(uri, params)
    local checked, err, details = check_params(self, params)
    if not checked then
        return nil, err, details
    end
    local parsed
    parsed, err = self:parse_uri(uri, false)
    if not parsed then
        return failures.note(self, err, select(3, bad_argument(err)), {})
    end
    local given = {}
    for name, value in pairs(checked) do
        given[name] = value
    end
    given.scheme, given.host, given.port = parsed[1], parsed[2], parsed[3]
    given.path = given.path or parsed[4]
    given.query = given.query or parsed[5]
    take_proxy_authorization(self, given)

    local deadline = given.deadline
    if deadline ~= nil and (type(deadline) ~= "number" or deadline ~= deadline or deadline < 1) then
        return failures.note(self,
            select(2, bad_argument("bad 'deadline': a number of milliseconds, at least 1")))
    end
    failures.begin(self)
    if deadline or self.has_deadline then
        set_deadline(self, deadline and to_timeout(deadline))
    end
    local res
    res, err, details = request_and_read(self, given)
    if deadline then
        set_deadline(self, nil)
    end
    if not res then
        return nil, err, details
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


local function to_count(value, default)
    value = tonumber(value)
    if not value or value < 0 then
        return default
    end
    return value < MAX_TIMEOUT and value - value % 1 or MAX_TIMEOUT
end


-- Sockets of the master that are open when it forks are copied into every worker.
local function in_master()
    return ngx and ngx.get_phase and ngx.get_phase() == "init"
end


--- Gives the connection to the pool. One whose server wants it closed is closed.
---@param idle_timeout? integer milliseconds; 60000 if nil, 0 for ever
---@param pool_size? integer idle connections to keep for this destination; `connect`'s, or else 30
---@return 1|2|nil result 2 if the connection had to be closed
---@return string? err
function _M:set_keepalive(idle_timeout, pool_size)
    if self.keepalive ~= true or in_master() then
        local ok, err = self:close()
        if not ok then
            return nil, err
        end
        return 2, "connection must be closed"
    end
    local result, err = self.client:keep_alive(to_count(idle_timeout, DEFAULT_KEEPALIVE),
        to_count(pool_size or self.pool_size, DEFAULT_POOL_SIZE))
    if _M.debugging then
        steps.released(result)
    end
    if result == "pooled" then
        return 1
    elseif result == "closed" then
        return 2, "connection must be closed"
    elseif result == "unread" then
        return nil, "unread data in buffer"
    end
    return nil, err or "closed"
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


--- What is known of the TLS session of the last connection, also after it was closed or given to
--- the pool.
---@return resty.mtls.ssl_info? info
---@return string? err
function _M:get_ssl_info()
    local info, err = self.client:ssl_info()
    if not info then
        return nil, err or "not a TLS connection"
    end
    return info
end


--- Closes the connection, and ends what another light thread does on it.
---@return 1|nil result
---@return string? err
function _M:close()
    local closed, err = self.client:close(in_master())
    if _M.debugging then
        steps.closed(closed)
    end
    if not closed then
        return nil, err or "closed"
    end
    return 1
end


--- An iterator over the body of the request that nginx is serving.
---@param chunk_size? integer bytes; 65536 by default
---@param sock? table a cosocket to read it from, in place of the request's own
---@param headers? table in place of the request's own
---@return (fun(max?: integer): string?, string?)? reader nil if there is no body
---@return string? err
function _M:get_client_body_reader(chunk_size, sock, headers)
    return serving.get_client_body_reader(self, chunk_size, sock, headers)
end


--- Sends the request that nginx is serving on the connection.
---@param chunk_size? integer bytes of its body at a time
---@return resty.mtls.response? res
---@return string? err
---@return resty.mtls.details? details
function _M:proxy_request(chunk_size)
    failures.begin(self)
    local res, err, details = serving.proxy_request(self, chunk_size)
    if not res then
        return failures.note(self, err, details)
    end
    return res
end


--- Answers the request that nginx is serving with a response.
---@param response resty.mtls.response
---@param chunk_size? integer bytes of its body at a time
function _M:proxy_response(response, chunk_size)
    return serving.proxy_response(self, response, chunk_size)
end


_M.transfer_encoding_is_chunked = serving.transfer_encoding_is_chunked


--- Logs each step of a request at nginx's debug level: name, connection, proxy, handshake, heads of
--- request and response, end of the body, and what became of the connection. Neither bodies nor
--- queries are logged, and only values of headers that are known to be harmless.
---@param on boolean
function _M.debug(on)
    _M.debugging = on == true
end


local function is_default(value, expected)
    if type(value) ~= "table" then
        return find(expected, type(value), 1, true) == 1
    end
    for i = 1, #value do
        if type(value[i]) ~= "string" then
            return false
        end
    end
    return value[1] ~= nil and find(expected, "list", 1, true) ~= nil
end


local function apply_default(name, value)
    if name == "dns_cache_time" then
        connecting.set_remember_names(to_count(value, 0))
    elseif name == "log_failures" then
        failures.set_logging(value)
    else
        destinations.set_default(name, value)
    end
end


--- Sets what applies to every later call of this process that does not say otherwise. Lua VMs that
--- exist already, such as the stream subsystem's, keep theirs.
---@param options {ssl_verify?: boolean, ssl_trusted_certificate?: string|string[],
---allow_keylog?: boolean, dns_cache_time?: integer, log_failures?: boolean} `allow_keylog`: write
---the secrets of TLS connections to the file that the environment variable SSLKEYLOGFILE names;
---`dns_cache_time`: milliseconds for which an answer of the system's resolver is used again, 5000
---unless set; `log_failures`: a line in the error log, at level warn, for each call that fails
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M.set_defaults(options)
    if type(options) ~= "table" then
        return bad_argument("bad defaults: expected a table, got " .. type(options))
    end
    for name, value in pairs(options) do
        local expected = default_types[name]
        if not expected then
            return bad_argument("there is no default for '" .. tostring(name) .. "'")
        end
        if not is_default(value, expected) then
            return bad_argument("bad '" .. name .. "': expected a " .. expected .. ", got "
                .. type(value))
        end
    end
    for name, value in pairs(options) do
        native.set_default(name, value)
        apply_default(name, value)
    end
    return true
end


for name, value in pairs(native.defaults()) do
    apply_default(name, value)
end


--- Makes every name be resolved by `fn`, in place of the system's resolver.
---@param fn? fun(host: string): (string|string[])?, string? address or addresses, or nil and why
---@return true? ok
---@return string? err
---@return resty.mtls.details? details
function _M.set_resolver(fn)
    return connecting.set_resolver(fn)
end


--- Connects to a server, makes a request if there is a path, and says what is wrong with TLS and
--- with the client certificate. Raises nothing. docs/diagnose.md has more.
---@param options resty.mtls.connect_options and `path` of a GET to make, `headers` of that, and
---`timeout` (milliseconds for each step, 10000 by default)
---@return resty.mtls.report report
function _M.diagnose(options)
    return diagnosis.run(_M, options)
end


--- Counters of this process. docs/operations.md has more.
---@param options? {destinations?: boolean} `destinations`: each destination by itself as well
---@return resty.mtls.stats? stats
---@return string? err
---@return resty.mtls.details? details
function _M.stats(options)
    if options ~= nil and type(options) ~= "table" then
        return bad_argument("bad options of stats: expected a table, got " .. type(options))
    end
    local stats, err, details = native.stats(options ~= nil and options.destinations == true)
    if not stats then
        return nil, err, details
    end
    return stats
end


return _M
