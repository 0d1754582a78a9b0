--- `gnutls-serv`: a TLS server that is not OpenSSL's, with alerts of its own choice.
---
--- It answers every GET with a page about the connection, and closes.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local _M = {}

---@class GnutlsOptions
---@field cert string? identity, "server" unless given
---@field leaf_only boolean? send the certificate without the chain behind it
---@field client_ca string? demand a client certificate of this CA
---@field optional boolean? ask for the client certificate and do without one
---@field crl string? file of CRLs
---@field version "1.2"|"1.3"|nil allow this one alone
---@field args string[]? further arguments

---@class GnutlsServer
---@field port integer
---@field process Process
local GnutlsServer = {}
GnutlsServer.__index = GnutlsServer


--- Starts the server and returns when it accepts connections, which `wait = false` leaves to
--- `:wait_until_ready()`.
---@param opts GnutlsOptions?
---@param wait boolean?
---@return GnutlsServer
function _M.start(opts, wait)
    opts = opts or {}
    local identity = opts.cert or "server"
    local self = setmetatable({ port = ports.free() }, GnutlsServer)
    local versions = opts.version and ":-VERS-ALL:+VERS-TLS" .. opts.version or ""
    local argv = {
        "gnutls-serv", "--http", "--port=" .. self.port, "--priority=NORMAL" .. versions,
        "--x509certfile=" .. certs.path(identity .. (opts.leaf_only and ".leaf.crt" or ".crt")),
        "--x509keyfile=" .. certs.path(identity .. ".key"),
    }
    if opts.client_ca then
        argv[#argv + 1] = not opts.optional and "--require-client-cert" or nil
        argv[#argv + 1] = "--verify-client-cert"
        argv[#argv + 1] = "--x509cafile=" .. certs.path(opts.client_ca .. ".crt")
        argv[#argv + 1] = opts.crl and "--x509crlfile=" .. opts.crl
    end
    for _, argument in ipairs(opts.args or {}) do
        argv[#argv + 1] = argument
    end

    self.process = process.start(argv, { log = fs.temp_dir("gnutls") .. "/log" })
    if wait ~= false then
        self:wait_until_ready()
    end
    return self
end


function GnutlsServer:wait_until_ready()
    process.wait_until("gnutls-serv listens", function()
        if not self.process:is_running() then
            error("gnutls-serv did not start:\n" .. self.process:output(), 0)
        end
        return self.process:output():find("listening on IPv4[^\n]*done")
    end)
end


function GnutlsServer:stop()
    self.process:stop()
end


return _M
