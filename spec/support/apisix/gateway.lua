--- An nginx that has plugins handle requests as APISIX does, and a service that the plugins ask.
--
--     local gateway = apisix.start({ routes = [[ phases.add("a", "mtls-callout", { … }) ]] })
--     gateway:ask("/a/path")  goes through the plugin of route "a", and then to a server that tells
--                             which request it got
--     gateway:seen()          what the service was asked
--
-- The service wants a client certificate; see service.lua. Its port is `${service}` in routes.
local cjson = require("cjson")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local _M = {}

--- For lua_package_path: the stand-ins for APISIX.
_M.LUA_PATH = fs.repo .. "/spec/support/?.lua;"

local SERVICE = [[
    location /ask {
        content_by_lua_block { require("spec.support.apisix.service").answer() }
    }
    location = /seen {
        content_by_lua_block { ngx.print(require("spec.support.apisix.service").seen()) }
    }
    location = /slow {
        content_by_lua_block { ngx.sleep(1) }
    }
]]

local PLUGINS = [[
    location / {
        set $from_plugin "";
        access_by_lua_block { require("apisix.phases").access() }
        log_by_lua_block { require("apisix.phases").log() }
        proxy_set_header X-From-Plugin $from_plugin;
        proxy_pass http://127.0.0.1:${port.behind};
    }
]]

local BEHIND = [[
    server {
        listen 127.0.0.1:${port.behind};
        location / {
            content_by_lua_block { ngx.print(require("spec.support.apisix.service").tell()) }
        }
    }
]]

local INIT = [[
    local core, phases = require("apisix.core"), require("apisix.phases")
    local router, secret = require("apisix.router"), require("apisix.secret")
    local ssl = require("apisix.ssl")
    core.config.local_conf().apisix = { ssl = { ssl_trusted_certificate = "${cert.ca.crt}" } }
    local function tls_of(cert, key, more)
        local tls = { client_cert = cert, client_key = key }
        for name, value in pairs(more or {}) do
            tls[name] = value
        end
        return tls
    end
    local a = { ${pem.client-a.crt}, ${pem.client-a.key} }
    local b = { ${pem.client-b.crt}, ${pem.client-b.key} }
]]

---@class ApisixOptions
---@field routes string Lua that runs in init_by_lua, after INIT
---@field service UpstreamOptions? of the service
---@field env table<string, string>?
---@field log_level string?
---@field vars table<string, string|number>? further placeholders of `routes`

---@class ApisixGateway
---@field nginx Gateway
---@field service Upstream
local Gateway = {}
Gateway.__index = Gateway


--- Starts both.
---@param opts ApisixOptions
---@return ApisixGateway
function _M.start(opts)
    local service_options = { server = SERVICE }
    for name, value in pairs(opts.service or {}) do
        service_options[name] = value
    end
    local service = nginx.upstream(service_options)
    local vars = { service = service.port }
    for name, value in pairs(opts.vars or {}) do
        vars[name] = value
    end
    local gateway = nginx.gateway({
        lua_path = _M.LUA_PATH, http = BEHIND, server = PLUGINS, vars = vars, env = opts.env,
        log_level = opts.log_level, init = INIT .. opts.routes,
        init_worker = "require('apisix.phases').init_worker()",
    })
    gateway:result_of("init")
    gateway:result_of("init_worker")
    return setmetatable({ nginx = gateway, service = service }, Gateway)
end


---@class ApisixAnswer: ClientResponse
---@field told table? the request that the server behind got

--- Sends a request through a route.
---@param path string
---@param opts ClientRequest?
---@return ApisixAnswer
function Gateway:ask(path, opts)
    local response = self.nginx:get(path, opts)
    local ok, told = pcall(cjson.decode, response.body)
    response.told = ok and told or nil
    return response
end


--- What the service was asked, in order.
---@return table[] requests
function Gateway:seen()
    return cjson.decode(self.service:get("/seen", { port = self.service.ports.plain }).body)
end


--- Waits until the service was asked that often.
---@param count integer
---@return table[] requests
function Gateway:wait_until_seen(count)
    return process.wait_until("the service was asked " .. count .. " times", function()
        local requests = self:seen()
        return #requests >= count and requests
    end)
end


--- Stops both. What plugins have left behind is done then.
function Gateway:stop()
    self.nginx:stop()
    self.service:stop()
end


return _M
