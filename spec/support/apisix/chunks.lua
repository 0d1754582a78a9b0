--- Chunks that use resty.mtls.apisix in an nginx with the stand-ins for APISIX. They know
--
--     core, router, secret, ssl    the stand-ins
--     mtls, http                   resty.mtls.apisix and resty.mtls.http
--     cert, key, other_cert, other_key    PEM of client-a and client-b
--     uri                          where a server says whom it sees
--     seen_with(tls)               whom it sees with such a `tls`, or why nobody
local lua_path = require("spec.support.apisix.gateway").LUA_PATH
local nginx = require("spec.support.nginx")

local _M = {}

local PRELUDE = [[
    local core, http = require("apisix.core"), require("resty.mtls.http")
    local mtls = require("resty.mtls.apisix")
    local router, secret = require("apisix.router"), require("apisix.secret")
    local ssl = require("apisix.ssl")
    local cert, key = ${pem.client-a.crt}, ${pem.client-a.key}
    local other_cert, other_key = ${pem.client-b.crt}, ${pem.client-b.key}
    local uri = "https://localhost:$SERVER/echo"

    local function seen_with(tls)
        local options, err = mtls.tls_options(tls)
        if not options then
            return err
        end
        local params = { ssl_trusted_certificate = ${pem.ca.crt} }
        for name, value in pairs(options) do
            params[name] = value
        end
        local res
        res, err = http.new():request_uri(uri, params)
        return res and res.body:match("subject: ([^\n]*)") or err
    end
]]


---@class ApisixChunks
---@field server Upstream
---@field gateway Gateway
local Chunks = {}
Chunks.__index = Chunks


--- Starts the server, and an nginx for chunks.
---@param env table<string, string>?
---@return ApisixChunks
function _M.start(env)
    return setmetatable({
        server = nginx.upstream(),
        gateway = nginx.gateway({ lua_path = lua_path, env = env }),
    }, Chunks)
end


local function complete(self, code)
    return ((PRELUDE .. code):gsub("%$SERVER", self.server.port))
end


--- Runs a chunk, and gives what it printed.
---@param code string
---@return string output
function Chunks:run(code)
    return self.gateway:run(complete(self, code))
end


--- Runs a chunk in an nginx of its own, where nobody has used anything yet.
---@param code string
---@param opts (RunOptions | GatewayOptions)?
---@return string output
function Chunks:run_alone(code, opts)
    opts = opts or {}
    opts.lua_path = lua_path
    return nginx.run_lua(complete(self, code), opts)
end


function Chunks:stop()
    self.gateway:stop()
    self.server:stop()
end


return _M
