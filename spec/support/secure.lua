--- Calls to TLS servers on localhost, by a caller that trusts the CA of the specs unless it says
--- otherwise.
---
---     local server = secure.server("server-expired", { version = "1.3" })
---     assert.equals("server_certificate_expired", secure.code(server))
---     …
---     teardown(secure.finish)
---
--- A chunk in another process has to say whom it trusts: the PKI is that of this process.
local call = require("spec.support.call")
local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local openssl_server = require("spec.support.openssl_server")

local _M = {}

-- Milliseconds: far more than anything here needs.
local PATIENCE = 10000

local servers = {}


--- An `openssl s_server`, the same one for the same identity and version.
---@param identity string
---@param version "1.2"|"1.3"|nil
---@return OpensslServer
function _M.server(identity, version)
    local key = identity .. " " .. (version or "")
    servers[key] = servers[key] or openssl_server.start({ cert = identity, version = version })
    return servers[key]
end


--- Stops all servers of `server`.
function _M.finish()
    for key, server in pairs(servers) do
        server:stop()
        servers[key] = nil
    end
end


--- Options of `connect`, and with `request` those of call.make.
---@param server { port: integer }
---@param more table? further ones; false takes one away, except for ssl_verify
---@return table
function _M.options(server, more)
    local options = {
        scheme = "https", host = "localhost", port = server.port, timeout = PATIENCE,
        request = { path = "/echo" },
    }
    if not more or more.ssl_trusted_certificate == nil then
        options.ssl_trusted_certificate = certs.path("ca.crt")
    end
    for name, value in pairs(more or {}) do
        if value == false and name ~= "ssl_verify" then
            value = nil
        end
        options[name] = value
    end
    return options
end


--- Adds a client certificate to options.
---@param identity string
---@param options table?
---@return table options
function _M.as(identity, options)
    options = options or {}
    options.ssl_cert_path = certs.path(identity .. ".crt")
    options.ssl_key_path = certs.path(identity .. ".key")
    return options
end


--- One request, on a connection that is closed then unless `keep` is given.
---@param server { port: integer }
---@param more table?
---@return Outcome
function _M.call(server, more)
    return call.make(_M.options(server, more))
end


--- How one request went in a word: the status, or the code of the error.
---@param server { port: integer }
---@param more table?
---@return integer|string status_or_code
---@return Outcome
function _M.code(server, more)
    local outcome = _M.call(server, more)
    return outcome.status or outcome.details.code, outcome
end


--- A connected client.
---@param server { port: integer }
---@param more table?
---@return table httpc
function _M.connect(server, more)
    local httpc = http.new()
    httpc:set_timeout(PATIENCE)
    assert(httpc:connect(_M.options(server, more)))
    return httpc
end


return _M
