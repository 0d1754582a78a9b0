--- Apache httpd with mod_ssl, which ends handshakes with an alert where nginx answers 400.
---
--- `/echo` answers with an empty page whose headers say what it knows: X-Subject, X-Protocol.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local lfs = require("lfs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local _M = {}

local TEMPLATE = [[
    ServerRoot "$DIR"
    ServerName localhost
    PidFile "$DIR/httpd.pid"
    DefaultRuntimeDir "$DIR"
    ErrorLog "$DIR/error.log"
    LogLevel info ssl:info
    LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
    LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
    LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
    LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
    LoadModule http2_module /usr/lib/apache2/modules/mod_http2.so
    StartServers 1
    ThreadsPerChild 4
    MaxRequestWorkers 4
    MinSpareThreads 1
    MaxSpareThreads 4
    $USER
    DocumentRoot "$DIR/www"
    $SITES
]]

local SITE = [[
    Listen 127.0.0.1:$PORT
    <VirtualHost 127.0.0.1:$PORT>
        SSLEngine on
        SSLProtocol $PROTOCOLS
        SSLCertificateFile "$CERT"
        SSLCertificateKeyFile "$KEY"
        SSLCACertificateFile "$CLIENT_CA"
        SSLVerifyClient $VERIFY
        SSLVerifyDepth 3
        Header always set X-Subject "%{SSL_CLIENT_S_DN}s"
        Header always set X-Protocol "%{SSL_PROTOCOL}s"
        Protocols $HTTP
        $CRL
        $CONFIG
    </VirtualHost>
]]

---@class HttpdSite: Site
---@field config string? further configuration
---@field http2 boolean? offer HTTP/2 as well, and prefer it

---@class HttpdOptions: HttpdSite
---@field sites table<string, HttpdSite>? several listeners, by name
---@field pages table<string, string>? content by name: "secret" is `/secret`

---@class Httpd
---@field ports table<string, integer> by the name of the site
---@field port integer? that of the only one
---@field dir string
---@field process Process
local Httpd = {}
Httpd.__index = Httpd


local function site_text(port, site)
    local identity = site.cert or "server"
    local values = {
        PORT = port,
        CERT = certs.path(identity .. (site.leaf_only and ".leaf.crt" or ".crt")),
        KEY = certs.path(identity .. ".key"),
        CLIENT_CA = certs.path((site.client_ca or "ca") .. ".crt"),
        VERIFY = site.verify or "require",
        PROTOCOLS = site.version and "-all +TLSv" .. site.version or "-all +TLSv1.2 +TLSv1.3",
        CRL = site.crl and 'SSLCARevocationCheck chain\nSSLCARevocationFile "' .. site.crl .. '"'
            or "",
        HTTP = site.http2 and "h2 http/1.1" or "http/1.1",
        CONFIG = site.config or "",
    }
    return (SITE:gsub("%$([A-Z_]+)", values))
end


local function configure(dir, sites, ports_of, pages)
    local texts = {}
    for name, site in pairs(sites) do
        texts[#texts + 1] = site_text(ports_of[name], site)
    end
    assert(lfs.mkdir(dir .. "/www"))
    fs.write(dir .. "/www/echo", "")
    for name, content in pairs(pages or {}) do
        fs.write(dir .. "/www/" .. name, content)
    end
    fs.write(dir .. "/httpd.conf", (TEMPLATE:gsub("%$([A-Z_]+)", {
        DIR = dir, SITES = table.concat(texts),
        -- It does not serve as root, and another user cannot choose.
        USER = lfs.attributes("/proc/self", "uid") == 0 and "User nobody\nGroup nogroup" or "",
    })))
end


--- Starts the server and returns when it accepts connections.
---@param opts HttpdOptions?
---@return Httpd
function _M.start(opts)
    opts = opts or {}
    local sites = opts.sites or { main = opts }
    local self = setmetatable({ ports = {}, dir = fs.temp_dir("httpd") }, Httpd)
    for name in pairs(sites) do
        self.ports[name] = ports.free()
    end
    self.port = self.ports.main
    configure(self.dir, sites, self.ports, opts.pages)
    self.process = process.start(
        { "/usr/sbin/apache2", "-DFOREGROUND", "-f", self.dir .. "/httpd.conf" },
        { log = self.dir .. "/output" })
    process.wait_until("httpd has started", function()
        if not self.process:is_running() then
            error("httpd did not start:\n" .. self.process:output() .. self:error_log(), 0)
        end
        return self:error_log():find("resuming normal operations", 1, true)
    end)
    return self
end


--- Everything in its error log so far.
---@return string
function Httpd:error_log()
    return fs.read(self.dir .. "/error.log") or ""
end


function Httpd:stop()
    self.process:stop()
end


return _M
