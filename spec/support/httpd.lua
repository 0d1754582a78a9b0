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
    Listen 127.0.0.1:$PORT
    LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
    LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
    LoadModule headers_module /usr/lib/apache2/modules/mod_headers.so
    LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so
    StartServers 1
    ThreadsPerChild 4
    MaxRequestWorkers 4
    MinSpareThreads 1
    MaxSpareThreads 4
    $USER

    DocumentRoot "$DIR/www"
    SSLEngine on
    SSLProtocol $PROTOCOLS
    SSLCertificateFile "$CERT"
    SSLCertificateKeyFile "$KEY"
    SSLCACertificateFile "$CLIENT_CA"
    SSLVerifyClient $VERIFY
    Header always set X-Subject "%{SSL_CLIENT_S_DN}s"
    Header always set X-Protocol "%{SSL_PROTOCOL}s"
    $CONFIG
]]

---@class HttpdOptions
---@field cert string? identity, "server" unless given
---@field client_ca string? identity that client certificates must come from: "ca" unless given
---@field verify "require"|"optional"|"none"|nil require unless given
---@field version "1.2"|"1.3"|nil allow this one alone
---@field config string? further configuration

---@class Httpd
---@field port integer
---@field dir string
---@field process Process
local Httpd = {}
Httpd.__index = Httpd


local function configure(dir, port, opts)
    local identity = opts.cert or "server"
    local values = {
        DIR = dir, PORT = port,
        CERT = certs.path(identity .. ".crt"), KEY = certs.path(identity .. ".key"),
        CLIENT_CA = certs.path((opts.client_ca or "ca") .. ".crt"),
        VERIFY = opts.verify or "require",
        PROTOCOLS = opts.version and "-all +TLSv" .. opts.version or "-all +TLSv1.2 +TLSv1.3",
        CONFIG = opts.config or "",
        -- It does not serve as root, and another user cannot choose.
        USER = lfs.attributes("/proc/self", "uid") == 0 and "User nobody\nGroup nogroup" or "",
    }
    assert(lfs.mkdir(dir .. "/www"))
    fs.write(dir .. "/www/echo", "")
    fs.write(dir .. "/httpd.conf", (TEMPLATE:gsub("%$([A-Z_]+)", values)))
end


--- Starts the server and returns when it accepts connections.
---@param opts HttpdOptions?
---@return Httpd
function _M.start(opts)
    local self = setmetatable({ port = ports.free(), dir = fs.temp_dir("httpd") }, Httpd)
    configure(self.dir, self.port, opts or {})
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
