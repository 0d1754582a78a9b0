--- Debian's squid: a real HTTP proxy on three loopback ports.
---
---     ports.open      serves everybody
---     ports.guarded   asks for credentials: those in squid.USERS
---     ports.tls       speaks TLS to its clients, as "server" of the PKI, and serves everybody
---
--- It knows "localhost", "origin.test" and "www.origin.test", which are 127.0.0.1, and asks no name
--- server.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local _M = {}

--- Passwords by user.
_M.USERS = { alice = "secret", bob = "p:s%40s w/o@rd" }

local HELPER = "/usr/lib/squid/basic_ncsa_auth"

local TEMPLATE = [[
    http_port 127.0.0.1:$OPEN name=open
    http_port 127.0.0.1:$GUARDED name=guarded
    https_port 127.0.0.1:$TLS name=tls tls-cert=$CERT tls-key=$KEY

    auth_param basic program $HELPER $DIR/users
    auth_param basic children 1 startup=1
    auth_param basic realm squid
    acl to_guarded myportname guarded
    acl known proxy_auth REQUIRED
    http_access allow to_guarded known
    http_access deny to_guarded
    http_access allow all

    cache deny all
    cache_mem 0
    cache_log $DIR/cache.log
    cache_store_log none
    logformat seen %>lp %rm %ru %un %>Hs
    access_log stdio:$DIR/access.log logformat=seen
    hosts_file $DIR/hosts
    dns_nameservers 127.0.0.1
    netdb_filename none
    coredump_dir $DIR
    pid_filename none
    strip_query_terms off
    pinger_enable off
    max_filedescriptors 256
    shutdown_lifetime 0 seconds
    visible_hostname proxy.test
]]

-- The origin sees by the address that a connection comes from which port it was asked on, and by
-- whom. Connections to the origin are for one client each.
local SOURCES = [[
    acl to_open myportname open
    acl to_tls myportname tls
    acl is_alice proxy_auth alice
    acl is_bob proxy_auth bob
    tcp_outgoing_address $NETWORK.1 to_open
    tcp_outgoing_address $NETWORK.2 to_tls
    tcp_outgoing_address $NETWORK.3 to_guarded is_alice
    tcp_outgoing_address $NETWORK.4 to_guarded is_bob
    server_persistent_connections off
    max_filedescriptors 4096
]]

---@class Squid
---@field ports { open: integer, guarded: integer, tls: integer }
---@field dir string
---@field process Process
local Squid = {}
Squid.__index = Squid


local function users_file()
    local lines = {}
    for user, password in pairs(_M.USERS) do
        local hash = process.check({ "openssl", "passwd", "-apr1", password })
        lines[#lines + 1] = user .. ":" .. hash
    end
    return table.concat(lines)
end


local function configure(self, network)
    -- It reads the key as the user that it becomes.
    local key = self.dir .. "/key"
    fs.write(key, certs.read("server.key"))
    fs.write(self.dir .. "/users", users_file())
    fs.write(self.dir .. "/hosts", "127.0.0.1 localhost origin.test www.origin.test\n")
    local values = {
        OPEN = self.ports.open, GUARDED = self.ports.guarded, TLS = self.ports.tls,
        CERT = certs.path("server.crt"), KEY = key, HELPER = HELPER, DIR = self.dir,
    }
    local config = TEMPLATE:gsub("%$([A-Z_]+)", values)
    if network then
        config = config .. SOURCES:gsub("%$NETWORK", network)
    end
    fs.write(self.dir .. "/squid.conf", config)
end


---@class SquidOptions
---@field network string? "127.0.1": connections come from 127.0.1.1 if it was asked on the port
---"open", .2 on "tls", and on "guarded" .3 if alice asked, .4 if bob did

--- Starts squid and returns when it accepts connections.
---@param opts SquidOptions?
---@return Squid
function _M.start(opts)
    local self = setmetatable({
        dir = fs.temp_dir("squid"),
        ports = { open = ports.free(), guarded = ports.free(), tls = ports.free() },
    }, Squid)
    -- Started by root, it becomes the user "proxy" before it opens its logs.
    fs.open_to_all(self.dir)
    configure(self, opts and opts.network)
    self.process = process.start({ "squid", "-N", "-f", self.dir .. "/squid.conf" },
                                 { cwd = self.dir, log = self.dir .. "/output" })
    process.wait_until("squid listens", function()
        if not self.process:is_running() then
            error("squid did not start:\n" .. self.process:output()
                  .. self:cache_log(), 0)
        end
        return self:cache_log():find("Accepting HTTPS Socket connections", 1, true)
    end)
    return self
end


function Squid:cache_log()
    return fs.read(self.dir .. "/cache.log") or ""
end


--- URI of one of its ports.
---@param name "open"|"guarded"|"tls"|nil open unless given
---@param credentials string? "user:password@", percent-encoded
---@return string
function Squid:uri(name, credentials)
    name = name or "open"
    return (name == "tls" and "https://" or "http://") .. (credentials or "") .. "localhost:"
        .. self.ports[name]
end


--- Waits for a line about a request or a tunnel that has ended: "port method target user status",
--- where "-" stands for nobody.
---@param name "open"|"guarded"|"tls" the port
---@param text string plain text of what comes after the port
function Squid:wait_for(name, text)
    local line = self.ports[name] .. " " .. text .. "\n"
    return process.wait_until("squid's log has " .. line, function()
        return (fs.read(self.dir .. "/access.log") or ""):find(line, 1, true)
    end)
end


--- Ends it. Asked nicely, it takes a second for that.
function Squid:stop()
    self.process:kill()
end


return _M
