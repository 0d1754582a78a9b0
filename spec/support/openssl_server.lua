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
---@field client_ca string? demand a client certificate of this CA
---@field version "1.2"|"1.3"|nil allow this one alone
---@field args string[]? further arguments

---@class OpensslServer
---@field port integer
---@field process Process
local OpensslServer = {}
OpensslServer.__index = OpensslServer


--- Starts the server and returns when it accepts connections.
---@param opts OpensslServerOptions?
---@return OpensslServer
function _M.start(opts)
    opts = opts or {}
    local identity = opts.cert or "server"
    local self = setmetatable({ port = ports.free() }, OpensslServer)
    local argv = {
        "openssl", "s_server", "-accept", "127.0.0.1:" .. self.port, "-www",
        "-cert", certs.path(identity .. ".leaf.crt"), "-key", certs.path(identity .. ".key"),
        "-cert_chain", certs.path(identity .. ".crt"),
    }
    local function add(...)
        for _, argument in ipairs({ ... }) do
            argv[#argv + 1] = argument
        end
    end

    if opts.client_ca then
        add("-Verify", "3", "-verify_return_error", "-CAfile", certs.path(opts.client_ca .. ".crt"))
    end
    if opts.version then
        add("-tls" .. opts.version:gsub("%.", "_"))
    end
    add(unpack(opts.args or {}))

    -- It may print its greeting later than it listens, never earlier.
    self.process = process.start(argv, { log = fs.temp_dir("s_server") .. "/log" })
    process.wait_until("s_server listens", function()
        if not self.process:is_running() then
            error("s_server did not start:\n" .. self.process:output(), 0)
        end
        return self.process:output():find("ACCEPT", 1, true)
    end)
    return self
end


function OpensslServer:stop()
    self.process:stop()
end


return _M
