--- `openssl s_server`: a TLS server that ends handshakes with alerts, as most servers but nginx do.
---
--- It answers every GET with a page about the connection ("Ciphers common between both SSL end
--- points" and so on), and closes.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local _M = {}

---@class OpensslServerOptions
---@field cert string? identity, "server" unless given
---@field leaf_only boolean? send the certificate without the chain behind it
---@field client_ca string? demand a client certificate of this CA
---@field optional boolean? ask for the client certificate and do without one
---@field crl string? file of CRLs, one for each CA in the chain of a client
---@field version "1.2"|"1.3"|nil allow this one alone
---@field args string[]? further arguments

---@class OpensslServer
---@field port integer
---@field process Process
local OpensslServer = {}
OpensslServer.__index = OpensslServer


-- What has to be sent behind the certificate, if anything.
local function chain_file(identity)
    local leaf, all = certs.read(identity .. ".leaf.crt"), certs.read(identity .. ".crt")
    if leaf == all then
        return nil
    end
    local path = fs.temp_dir("s_server") .. "/chain.pem"
    fs.write(path, all:sub(#leaf + 1))
    return path
end


-- "-CRL" would take one CRL only; the file of CAs may have any number of them.
local function trust_file(opts)
    local ca = certs.path(opts.client_ca .. ".crt")
    if not opts.crl then
        return ca
    end
    local path = fs.temp_dir("s_server") .. "/trust.pem"
    fs.write(path, fs.read(ca) .. fs.read(opts.crl))
    return path
end


--- Starts the server and returns when it accepts connections, which `wait = false` leaves to
--- `:wait_until_ready()`.
---@param opts OpensslServerOptions?
---@param wait boolean?
---@return OpensslServer
function _M.start(opts, wait)
    opts = opts or {}
    local identity = opts.cert or "server"
    local self = setmetatable({ port = ports.free() }, OpensslServer)
    local argv = {
        "openssl", "s_server", "-accept", "127.0.0.1:" .. self.port, "-www",
        "-cert", certs.path(identity .. ".leaf.crt"), "-key", certs.path(identity .. ".key"),
    }
    local function add(...)
        for _, argument in ipairs({ ... }) do
            argv[#argv + 1] = argument
        end
    end

    local chain = not opts.leaf_only and chain_file(identity)
    if chain then
        add("-cert_chain", chain)
    end
    if opts.client_ca then
        add(opts.optional and "-verify" or "-Verify", "3", "-verify_return_error",
            "-CAfile", trust_file(opts))
        add(opts.crl and "-crl_check_all" or nil)
    end
    if opts.version then
        add("-tls" .. opts.version:gsub("%.", "_"))
    end
    add(unpack(opts.args or {}))

    self.process = process.start(argv, { log = fs.temp_dir("s_server") .. "/log" })
    if wait ~= false then
        self:wait_until_ready()
    end
    return self
end


function OpensslServer:wait_until_ready()
    -- It may print its greeting later than it listens, never earlier.
    process.wait_until("s_server listens", function()
        if not self.process:is_running() then
            error("s_server did not start:\n" .. self.process:output(), 0)
        end
        return self.process:output():find("ACCEPT", 1, true)
    end)
end


function OpensslServer:stop()
    self.process:stop()
end


return _M
