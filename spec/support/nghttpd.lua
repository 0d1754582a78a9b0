--- nghttpd, the server of nghttp2: HTTP/2 and nothing else, with TLS or with prior knowledge.
---
--- It serves files, and gives back what is sent to it with POST or PUT.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")
local socket = require("socket")

local _M = {}

---@class NghttpdOptions
---@field tls boolean? with the identity "server" of the PKI
---@field files table<string, string>? by name
---@field args string[]? further arguments

---@class Nghttpd
---@field port integer
---@field process Process
local Nghttpd = {}
Nghttpd.__index = Nghttpd


--- Starts the server and returns when it accepts connections.
---@param opts NghttpdOptions?
---@return Nghttpd
function _M.start(opts)
    opts = opts or {}
    local dir = fs.temp_dir("nghttpd")
    for name, content in pairs(opts.files or {}) do
        fs.write(dir .. "/" .. name, content)
    end
    local self = setmetatable({ port = ports.free() }, Nghttpd)
    local argv = { "nghttpd", "-a", "127.0.0.1", "-d", dir, "-v", "--echo-upload" }
    for _, argument in ipairs(opts.args or {}) do
        argv[#argv + 1] = argument
    end
    if not opts.tls then
        argv[#argv + 1] = "--no-tls"
    end
    argv[#argv + 1] = tostring(self.port)
    if opts.tls then
        argv[#argv + 1] = certs.path("server.key")
        argv[#argv + 1] = certs.path("server.crt")
    end
    self.process = process.start(argv, { log = dir .. ".log" })
    process.wait_until("nghttpd listens", function()
        if not self.process:is_running() then
            error("nghttpd did not start:\n" .. self.process:output(), 0)
        end
        local connection = socket.connect("127.0.0.1", self.port)
        return connection and connection:close()
    end)
    return self
end


--- Frames and headers so far, in its own words.
---@return string
function Nghttpd:output()
    return self.process:output()
end


function Nghttpd:stop()
    self.process:stop()
end


return _M
