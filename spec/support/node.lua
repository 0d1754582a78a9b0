--- Node's https server: OpenSSL's handshakes, and Node's own verdict on client certificates.
---
--- `/echo` answers with an empty page whose headers say what it knows: X-Subject, X-Protocol.
local certs = require("spec.support.certs")
local cjson = require("cjson.safe")
local fs = require("spec.support.fs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local _M = {}

---@class NodeOptions: Site `verify = "optional"` takes certificates of all kinds
---@field sites table<string, Site>? several listeners, by name

---@class NodeServer
---@field ports table<string, integer> by the name of the site
---@field port integer? that of the only one
---@field process Process
local NodeServer = {}
NodeServer.__index = NodeServer


local function plan_of(name, site, port)
    local identity = site.cert or "server"
    return {
        name = name, port = port, verify = site.verify or "require",
        cert = certs.path(identity .. (site.leaf_only and ".leaf.crt" or ".crt")),
        key = certs.path(identity .. ".key"),
        ca = certs.path((site.client_ca or "ca") .. ".crt"), crl = site.crl,
        version = site.version and "TLSv" .. site.version,
    }
end


--- Starts the server and returns when it accepts connections.
---@param opts NodeOptions?
---@return NodeServer
function _M.start(opts)
    local dir = fs.temp_dir("node")
    local self = setmetatable({ ports = {} }, NodeServer)
    local plan = {}
    for name, site in pairs(opts and opts.sites or { main = opts or {} }) do
        self.ports[name] = ports.free()
        plan[#plan + 1] = plan_of(name, site, self.ports[name])
    end
    self.port = self.ports.main
    fs.write(dir .. "/plan.json", cjson.encode(plan))

    self.process = process.start(
        { "node", fs.repo .. "/spec/support/node_server.js", dir .. "/plan.json" },
        { log = dir .. "/output" })
    process.wait_until("node listens", function()
        if not self.process:is_running() then
            error("node did not start:\n" .. self.process:output(), 0)
        end
        return self.process:output():find("\nready", 1, true)
    end)
    return self
end


function NodeServer:stop()
    self.process:stop()
end


return _M
