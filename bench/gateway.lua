--- Runs inside of the gateway: the calls that are measured. What makes them is named by `by`, and
--- the code is the same for all; only options and module differ.
---
---     ours      this library
---     peer      lua-resty-http as it is
---     memoised  the same, with the certificate's hash remembered
---     floor     nobody: the location without the call
local cases = require("bench.cases")

local _M = {}

local POOL_SIZE = 128

---@class Client
---@field new fun(): table
---@field options table<string, table> of connect, by the names of cases
---@field set_certificate function? what the library leaves to its caller

---@type table<string, Client>
local clients = {}

local upload

-- Since the worker was started, or since it was asked to forget.
local active, calls, failures, first, last


local function forget()
    active, calls, failures, first, last = 0, 0, 0, nil, nil
end


local function read_file(path, bytes)
    local file = assert(io.open(path, "rb"))
    local content = file:read(bytes or "*a")
    file:close()
    return content
end


local function options_of_cases(settings, add)
    local all = {}
    for _, case in ipairs(cases.list) do
        local options = {
            scheme = "https", host = "127.0.0.1", port = settings.ports[case.server],
            ssl_server_name = "localhost", ssl_verify = true,
        }
        add(options, settings.identities[case.server], case)
        all[case.name] = options
    end
    return all
end


local function our_client(settings)
    local http = require("resty.mtls.http")
    local ca = read_file(settings.ca)
    return {
        new = http.new,
        options = options_of_cases(settings, function(options, identity, case)
            options.ssl_cert = read_file(identity.cert)
            options.ssl_key = read_file(identity.key)
            options.ssl_trusted_certificate = ca
            options.ssl_session_reuse = case.connection ~= "new"
            options.http_version = case.http_version
        end),
    }
end


-- A checkout of resty.http, though another one may have been loaded under these names.
local function load_peer(root)
    for name in pairs(package.loaded) do
        if name:find("^resty%.http") then
            package.loaded[name] = nil
        end
    end
    local path = package.path
    package.path = root .. "/?.lua;" .. path
    local http = require("resty.http")
    package.path = path
    return http
end


local function peer_client(settings, root)
    local ssl = require("ngx.ssl")
    local http = load_peer(root)
    local takes_certificate = read_file(root .. "/resty/http_connect.lua"):find("ssl_client_cert")
    local client = { new = http.new }
    client.options = options_of_cases(settings, function(options, identity)
        options.ssl_client_cert = assert(ssl.parse_pem_cert(read_file(identity.cert)))
        options.ssl_client_priv_key = assert(ssl.parse_pem_priv_key(read_file(identity.key)))
    end)
    if not takes_certificate then
        client.set_certificate = function(httpc, options)
            httpc.sock:setclientcert(options.ssl_client_cert, options.ssl_client_priv_key)
        end
    end
    return client
end


--- For init_by_lua.
---@param settings table see servers.lua
function _M.set_up(settings)
    forget()
    upload = read_file("/dev/urandom", 1024 * 1024)
    clients.ours = our_client(settings)
    for name, root in pairs(settings.peers) do
        if root ~= "" then
            clients[name] = peer_client(settings, root)
        end
    end
end


local function read_parts(res)
    local size = 0
    while true do
        local part, err = res.body_reader(65536)
        assert(not err, err)
        if not part then
            return size
        end
        size = size + #part
    end
end


local function exchange(client, case, path, query)
    local httpc = client.new()
    local options = client.options[case.name]
    if client.set_certificate then
        client.set_certificate(httpc, options)
    end
    local ok, err, session = httpc:connect(options)
    assert(ok, err)
    if case.connection == "resumed" then
        -- All that callers of resty.http can do. Ours takes no notice of it.
        options.ssl_reused_session = session
    end

    local res = assert(httpc:request({
        method = case.upload and "POST" or "GET", path = path, query = query,
        body = case.upload and upload,
    }))
    local size, body
    if case.in_parts then
        size = read_parts(res)
    else
        body = assert(res:read_body())
        size = #body
    end
    assert(res.status < 300, res.status)

    if case.connection == "kept" then
        assert(httpc:set_keepalive(60000, POOL_SIZE))
    else
        assert(httpc:close())
    end
    return size, body
end


-- Some peers want no query in the path.
local function make_call(client, case)
    if case.upload then
        return exchange(client, case, "/upload")
    end
    return exchange(client, case, "/random", "n=" .. case.bytes)
end


local function arguments()
    return clients[ngx.var.arg_by], assert(cases.by_name[ngx.var.arg_case])
end


--- One call.
function _M.call()
    local client, case = arguments()
    first = first or ngx.now()
    active = active + 1
    local ok, size = true, case.bytes
    if client then
        ok, size = pcall(make_call, client, case)
    end
    active = active - 1
    calls = calls + 1
    last = ngx.now()
    if not ok or size ~= case.bytes then
        failures = failures + 1
        ngx.log(ngx.ERR, "call failed: ", size)
        return ngx.exit(500)
    end
    ngx.print(size)
end


--- Calls, as many at a time as the case has connections, for some seconds.
function _M.warm_up()
    local client, case = arguments()
    local deadline = ngx.now() + ngx.var.arg_seconds
    local threads = {}
    for i = 1, client and case.connections or 0 do
        threads[i] = ngx.thread.spawn(function()
            repeat
                make_call(client, case)
            until ngx.now() > deadline
        end)
    end
    for _, thread in ipairs(threads) do
        assert(ngx.thread.wait(thread))
    end
end


--- What the upstream sees of the second of two connections.
function _M.seen()
    local client, case = arguments()
    exchange(client, case, "/seen")
    local _, body = exchange(client, case, "/seen")
    ngx.print(body)
end


--- What came of the calls so far.
function _M.state()
    ngx.print(string.format("active=%d calls=%d failures=%d first=%.3f last=%.3f", active, calls,
        failures, first or 0, last or 0))
    if ngx.var.arg_forget then
        forget()
    end
end


return _M
