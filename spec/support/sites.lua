--- The real servers behind one interface: any number of listeners, each with its own certificate
--- and demands.
---
---     local servers = sites.start("httpd", { strict = { version = "1.2", verify = "require" } })
---     local outcome = call.make({ port = servers.ports.strict, … })
---     assert.same({ common_name = "client-a", protocol = "TLSv1.2" }, sites.seen(outcome))
---     servers:stop()
local gnutls = require("spec.support.gnutls")
local httpd = require("spec.support.httpd")
local nginx_sites = require("spec.support.nginx.sites")
local node = require("spec.support.node")
local openssl_server = require("spec.support.openssl_server")

local _M = {}

---@alias SiteKind "nginx"|"httpd"|"node"|"gnutls-serv"|"s_server"

---@class Site
---@field cert string? identity, "server" unless given
---@field leaf_only boolean? send the certificate without the chain behind it
---@field client_ca string? identity that client certificates must come from: "ca" unless given
---@field verify "require"|"optional"|"none"|nil require unless given
---@field version "1.2"|"1.3"|nil allow this one alone
---@field crl string? file of CRLs, one for each CA in the chain of a client

---@class SiteServers
---@field ports table<string, integer> by the name of the site
---@field stop fun(self: SiteServers)

--- All of them.
---@type SiteKind[]
_M.KINDS = { "nginx", "httpd", "node", "gnutls-serv", "s_server" }


-- The command line tools listen on one port each.
local ToolServers = {}
ToolServers.__index = ToolServers


local function start_tools(tool, list)
    local self = setmetatable({ servers = {}, ports = {} }, ToolServers)
    for name, site in pairs(list) do
        local verify = site.verify or "require"
        self.servers[name] = tool.start({
            cert = site.cert, leaf_only = site.leaf_only, version = site.version, crl = site.crl,
            client_ca = verify ~= "none" and (site.client_ca or "ca") or nil,
            optional = verify == "optional",
        }, false)
        self.ports[name] = self.servers[name].port
    end
    for _, server in pairs(self.servers) do
        server:wait_until_ready()
    end
    return self
end


function ToolServers:stop()
    for _, server in pairs(self.servers) do
        server:stop()
    end
end


--- Starts a server and returns when it accepts connections to all of its sites.
---@param kind SiteKind
---@param list table<string, Site> by names of letters, digits and underscores
---@return SiteServers
function _M.start(kind, list)
    if kind == "gnutls-serv" then
        return start_tools(gnutls, list)
    elseif kind == "s_server" then
        return start_tools(openssl_server, list)
    end
    local servers = { nginx = nginx_sites, httpd = httpd, node = node }
    return servers[kind].start({ sites = list })
end


---@class SeenBySite
---@field protocol string "TLSv1.2" or "TLSv1.3"
---@field common_name string? of the client certificate, which was verified; nil if there was none

-- s_server and gnutls-serv answer with a page about the connection, which tells the issuer as well.
local function seen_on_page(page)
    return {
        protocol = "TLSv" .. (page:match("Protocol  : TLSv([%d.]+)")
                              or page:match("Protocol version:</TD><TD>TLS([%d.]+)")),
        common_name = page:match("Subject: O=Example, CN=([%w-]+)")
            or page:match("Subject: CN=([%w-]+),O=Example"),
    }
end


--- What the server has seen, in its own words.
---@param outcome Outcome of a request for /echo
---@return SeenBySite
function _M.seen(outcome)
    local protocol = outcome.headers["X-Protocol"]
    if not protocol then
        return seen_on_page(outcome.body)
    end
    local subject = outcome.headers["X-Subject"] or ""
    return { protocol = protocol, common_name = subject:match("^CN=([%w-]+),O=Example$") }
end


return _M
