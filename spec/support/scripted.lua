--- Clients of this process, connected to peers that play a script. Both end with `finish`, which
--- belongs into an `after_each`.
local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local peer = require("spec.support.peer")

local _M = {}

-- Milliseconds: far more than anything here needs.
local PATIENCE = 10000

local servers, clients = {}, {}


--- Starts a peer.
---@param opts PeerOptions
---@return Peer
function _M.serve(opts)
    local server = peer.start(opts)
    servers[#servers + 1] = server
    return server
end


--- A client that is connected to a peer, or to a port.
---@param server Peer|integer
---@param options table? further connect options
---@return table httpc
function _M.connect(server, options)
    local is_peer = type(server) == "table"
    local given = { scheme = "http", host = "localhost", port = is_peer and server.port or server }
    if is_peer and server.is_tls then
        given.scheme, given.ssl_trusted_certificate = "https", certs.path("ca.crt")
    end
    for name, value in pairs(options or {}) do
        given[name] = value
    end
    local httpc = http.new()
    clients[#clients + 1] = httpc
    httpc:set_timeout(PATIENCE)
    assert(httpc:connect(given))
    return httpc
end


--- A client, connected to a peer that goes through this script on every connection.
---@param script PeerStep[]
---@param tls PeerTls?
---@return table httpc
---@return Peer
function _M.connected(script, tls)
    local server = _M.serve({ script = script, tls = tls })
    server.is_tls = tls ~= nil
    return _M.connect(server), server
end


--- A client, connected to a peer that answers every connection's first head with these bytes and
--- then does nothing, or what `ending` says.
---@param bytes string
---@param ending PeerStep?
---@param tls PeerTls?
---@return table httpc
---@return Peer
function _M.answered(bytes, ending, tls)
    return _M.connected({ peer.receive_until("\r\n\r\n"), peer.send(bytes),
                          ending or peer.hang() }, tls)
end


--- Makes a request and reads its body.
---@return integer? status
---@return string body_or_err
---@return table? details
function _M.fetch(httpc, params)
    local res, err, details = httpc:request(params or {})
    if not res then
        return nil, err, details
    end
    local body
    body, err, details = res:read_body()
    if not body then
        return nil, err, details
    end
    return res.status, body
end


--- What a function returns, with its count under `n`.
function _M.pack(...)
    return { n = select("#", ...), ... }
end


--- Closes all clients and stops all peers.
function _M.finish()
    for _, httpc in ipairs(clients) do
        httpc:close()
    end
    for _, server in ipairs(servers) do
        server:stop()
    end
    servers, clients = {}, {}
end


return _M
