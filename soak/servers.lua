--- All the servers of a soak: upstreams that are left alone and one that is not, a proxy, hostile
--- peers, two gateways, and the driver. One gateway is reloaded; the other one is not, so that its
--- workers can be looked at before and after.
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fault_server = require("spec.support.fault_server")
local frames = require("spec.support.frames")
local fs = require("spec.support.fs")
local hostile = require("soak.hostile")
local nghttpd = require("spec.support.nghttpd")
local nginx = require("spec.support.nginx")
local pkcs12 = require("spec.support.certs.pkcs12")
local ports = require("spec.support.ports")
local squid = require("spec.support.squid")

local _M = {}

local TLS = [[
    ssl_certificate ${cert.server.crt};
    ssl_certificate_key ${cert.server.key};
    ssl_client_certificate ${cert.ca.crt};
    ssl_verify_client optional;
    ssl_verify_depth 3;
    ssl_protocols TLSv1.2 TLSv1.3;
    # Tickets do for resumption; a cache that is full is an alert.
    ssl_session_cache off;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    lua_check_client_abort on;
    default_type application/octet-stream;
    init_by_lua_block { require("soak.upstream").set_up("${sabotage}") }
]]

local LOCATIONS = [[
    location / {
        content_by_lua_block { require("soak.upstream").answer() }
    }
    location /trailers {
        add_trailer X-Sum $arg_id;
        content_by_lua_block { require("soak.upstream").answer() }
    }
]]

-- A connection of HTTP/2 that ends after so many requests refuses some, which are sent again; but
-- not those whose body comes from an iterator. Where nothing may fail, none ends.
local CALM = TLS .. [[
    server {
        listen 127.0.0.1:${port.tls} ssl;
        ]] .. LOCATIONS .. [[
    }
    server {
        listen 127.0.0.1:${port.h2} ssl http2;
        listen 127.0.0.1:${port.h2c} http2;
        keepalive_requests 1000000000;
        ]] .. LOCATIONS .. [[
    }
    server {
        listen 127.0.0.1:${port.plain};
        listen unix:${dir}/plain.sock;
        ]] .. LOCATIONS .. [[
    }
    server {
        listen 127.0.0.1:${port.brief} ssl;
        keepalive_timeout 200ms;
        keepalive_requests 20;
        ]] .. LOCATIONS .. [[
    }
]]

local SHAKY = TLS .. [[
    server {
        listen 127.0.0.1:${port.tls} ssl;
        listen 127.0.0.1:${port.h2} ssl http2;
        listen 127.0.0.1:${port.plain};
        keepalive_requests 300;
        ]] .. LOCATIONS .. [[
    }
]]

local GATEWAY = [[
    init_by_lua_block { require("soak.gateway").set_up("${settings}") }
    init_worker_by_lua_block { require("soak.gateway").start_worker() }
    lua_shared_dict rest 1m;
    lua_max_running_timers 4096;
    client_body_buffer_size 16k;

    server {
        listen 127.0.0.1:${port.gateway};
        lua_check_client_abort on;
        location = /call { content_by_lua_block { require("soak.gateway").call() } }
        location = /pass { content_by_lua_block { require("soak.gateway").pass() } }
        location = /rest { content_by_lua_block { require("soak.rest").ask() } }
        location = /answers { content_by_lua_block { require("soak.rest").answers() } }
    }
]]

local DRIVER = [[
    init_by_lua_block {
        require("soak.driver").set_up({
            seed = ${seed}, gateways = { ${reloaded}, ${steady} }, ids = 32,
        })
    }
    lua_max_running_timers 4096;

    server {
        listen 127.0.0.1:${port.driver};
        location = /begin { content_by_lua_block { require("soak.driver").begin() } }
        location = /pause { content_by_lua_block { require("soak.driver").pause() } }
        location = /state { content_by_lua_block { require("soak.driver").state() } }
    }
]]

---@class Servers
---@field calm Nginx
---@field shaky Nginx
---@field reloaded Nginx gateway
---@field steady Nginx gateway
---@field driver Nginx
---@field squid Squid
---@field nghttpd Nghttpd gives back what it gets
---@field rotating string path of the file of certificate and key that is replaced
---@field secrets string[] what no log may have in it
local Servers = {}
Servers.__index = Servers


--- Certificate and key of an identity in one.
---@param name string
---@return string pem
function _M.both(name)
    return certs.read(name .. ".crt") .. certs.read(name .. ".key")
end


local function start_hostile(self, port_of)
    self.hostile = {}
    for _, scene in ipairs(hostile.list) do
        if scene.steps then
            local server = fault_server.start({ tls = scene.tls, client_ca = scene.tls and "ca" },
                                              scene.steps(fault_server, frames))
            port_of["hostile " .. scene.name] = server.port
            self.hostile[#self.hostile + 1] = server
        end
    end
end


local function proxies(proxy)
    local password = squid.USERS.bob:gsub("[^%w]", function(character)
        return ("%%%02X"):format(character:byte())
    end)
    return {
        open = { http_proxy = proxy:uri() },
        guarded = { https_proxy = proxy:uri("guarded", "bob:" .. password .. "@") },
        tls = { https_proxy = proxy:uri("tls") },
        closed = { https_proxy = proxy:uri("guarded") },
    }, { squid.USERS.bob, password }
end


-- What the gateways know.
local function settings_of(self, opts)
    local port_of = {
        tls = self.calm.ports.tls, h2 = self.calm.ports.h2, h2c = self.calm.ports.h2c,
        plain = self.calm.ports.plain, brief = self.calm.ports.brief, nobody = ports.free(),
        shaky_tls = self.shaky.ports.tls, shaky_h2 = self.shaky.ports.h2,
        shaky_plain = self.shaky.ports.plain, nghttpd = self.nghttpd.port,
    }
    start_hostile(self, port_of)
    local settings = {
        ports = port_of, socket = self.calm.dir .. "/plain.sock", sabotage = opts.sabotage,
        ca = certs.read("ca.crt"), other_ca = certs.read("other-ca.crt"),
        passphrase = certs.PASSPHRASE, log_failures = true, identities = {},
        files = { cert = certs.path("client-p384.crt"), key = certs.path("client-p384.key"),
                  pkcs12 = pkcs12.path("client-chained"), rotating = self.rotating },
    }
    self.secrets = { certs.PASSPHRASE, "PRIVATE KEY" }
    for _, name in ipairs({ "client-a", "client-b", "client-rsa", "client-ed25519", "client-p384",
                            "client-chained", "client-chained-p384", "rotating-a",
                            "rotating-b" }) do
        settings.identities[name] = { cert = certs.read(name .. ".crt"),
                                      key = certs.read(name .. ".key") }
        self.secrets[#self.secrets + 1] = certs.read(name .. ".key"):match("\n([^\n]+)")
    end
    settings.identities["client-chained-p384"].encrypted = certs.read(
        "client-chained-p384.encrypted.key")
    local proxy_secrets
    settings.proxies, proxy_secrets = proxies(self.squid)
    for _, secret in ipairs(proxy_secrets) do
        self.secrets[#self.secrets + 1] = secret
    end
    return settings
end


--- Starts all of them.
---@param opts { seed: integer, sabotage: string? }
---@return Servers
function _M.start(opts)
    certs.add({ ["rotating-a"] = { usage = "client", issuer = "ca" },
                ["rotating-b"] = { usage = "client", issuer = "ca" } })
    local self = setmetatable({}, Servers)
    local dir = fs.temp_dir("soak")
    self.rotating = dir .. "/rotating.pem"
    fs.write(self.rotating, _M.both("rotating-a"))

    local vars = { sabotage = opts.sabotage or "" }
    self.calm = nginx.start({ http = CALM, workers = 2, log_level = "warn", vars = vars })
    self.shaky = nginx.start({ http = SHAKY, workers = 2, log_level = "warn", vars = vars })
    self.squid, self.nghttpd = squid.start(), nghttpd.start({ tls = true })
    fs.write(dir .. "/settings", cjson.encode(settings_of(self, opts)))

    local function gateway()
        return nginx.start({ http = GATEWAY, workers = 2, log_level = "info",
                             vars = { settings = dir .. "/settings" } })
    end
    self.reloaded, self.steady = gateway(), gateway()
    self.driver = nginx.start({ http = DRIVER, log_level = "warn", vars = {
        seed = opts.seed, reloaded = self.reloaded.port, steady = self.steady.port,
    } })
    return self
end


--- Every nginx there is, by name.
---@return table<string, Nginx>
function Servers:nginxes()
    return { calm = self.calm, shaky = self.shaky, reloaded = self.reloaded, steady = self.steady,
             driver = self.driver }
end


--- Ends all of them the hard way, after an error.
function Servers:kill()
    for _, server in pairs(self:nginxes()) do
        server.process:kill()
    end
    self:stop()
end


--- Ends all of them, and waits until they have.
function Servers:stop()
    for _, server in pairs(self:nginxes()) do
        server:stop(30)
    end
    for _, server in ipairs(self.hostile) do
        server:stop()
    end
    self.nghttpd:stop()
    self.squid:stop()
end


return _M
