--- The server at the other end: nginx that demands a client certificate and says what it saw.
---
---     /echo        what it knows about request and connection, one "name: value" a line
---     /body        the request body
---     /bytes?n=10  that many bytes
---     /slow?s=0.5  "slow" after that many seconds
---
--- nginx lets a handshake without a certificate pass and answers 400. For a server that ends it
--- with an alert, as most others do, see openssl_server.lua and peer.lua.
local server = require("spec.support.nginx.server")

local _M = {}

local TEMPLATE = [[
    ssl_certificate ${cert.$CERT.crt};
    ssl_certificate_key ${cert.$CERT.key};
    ssl_client_certificate ${cert.$CLIENT_CA.crt};
    ssl_verify_client $VERIFY;
    ssl_verify_depth 3;
    ssl_protocols $PROTOCOLS;
    ssl_session_tickets $TICKETS;
    keepalive_requests $KEEPALIVE_REQUESTS;
    keepalive_timeout $KEEPALIVE_TIMEOUT;
    $HTTP

    server {
        listen 127.0.0.1:${port.tls} ssl $LISTEN;
        listen unix:${dir}/tls.sock ssl $LISTEN;
        listen 127.0.0.1:${port.plain};
        listen unix:${dir}/plain.sock;
        server_name localhost target.server;
        default_type text/plain;

        location /echo {
            return 200 "$ECHO";
        }
        location /body {
            client_max_body_size 0;
            client_body_buffer_size 64k;
            content_by_lua_block {
                ngx.req.read_body()
                local body = ngx.req.get_body_data()
                local path = ngx.req.get_body_file()
                if path then
                    body = assert(io.open(path, "rb")):read("*a")
                end
                ngx.print(body or "")
            }
        }
        location /bytes {
            content_by_lua_block {
                local left = tonumber(ngx.var.arg_n)
                ngx.header.content_length = left
                local block = ("0123456789abcdef"):rep(4096)
                while left > 0 do
                    ngx.print(block:sub(1, left))
                    left = left - #block
                    assert(ngx.flush(true))
                end
            }
        }
        location /slow {
            content_by_lua_block {
                ngx.sleep(tonumber(ngx.var.arg_s))
                ngx.print("slow")
            }
        }
        $SERVER
    }
]]

local ECHO_VARIABLES = {
    subject = "ssl_client_s_dn", issuer = "ssl_client_i_dn", verify = "ssl_client_verify",
    protocol = "ssl_protocol", cipher = "ssl_cipher", session_reused = "ssl_session_reused",
    server_name = "ssl_server_name", connection = "connection",
    connection_requests = "connection_requests", method = "request_method", uri = "request_uri",
    host = "http_host", http = "server_protocol",
}


local function echo_text()
    local lines = {}
    for name, variable in pairs(ECHO_VARIABLES) do
        lines[#lines + 1] = name .. ": $" .. variable .. "\\n"
    end
    table.sort(lines)
    return table.concat(lines)
end


---@class UpstreamOptions
---@field cert string? identity of the server: "server" unless given
---@field client_ca string? identity that client certificates must come from: "ca" unless given
---@field verify "on"|"off"|"optional"|"optional_no_ca"? on unless given
---@field protocols string? "TLSv1.2 TLSv1.3" unless given
---@field tickets "on"|"off"? session tickets, on unless given
---@field keepalive_requests integer? 1000 unless given
---@field keepalive_timeout string? "75s" unless given
---@field listen string? further parameters of the TLS listeners: "http2"
---@field server string? further configuration of the server
---@field http string? further configuration beside the server
---@field workers integer?
---@field vars table<string, string|number>?

---@class Upstream: Nginx
---@field port integer of https; `ports.plain` is http, and tls_socket and plain_socket are unix
---@field tls_socket string path
---@field plain_socket string path

--- Starts the upstream.
---@param opts UpstreamOptions?
---@return Upstream
function _M.start(opts)
    opts = opts or {}
    local values = {
        CERT = opts.cert or "server", CLIENT_CA = opts.client_ca or "ca",
        VERIFY = opts.verify or "on", PROTOCOLS = opts.protocols or "TLSv1.2 TLSv1.3",
        TICKETS = opts.tickets or "on", KEEPALIVE_REQUESTS = opts.keepalive_requests or 1000,
        KEEPALIVE_TIMEOUT = opts.keepalive_timeout or "75s", LISTEN = opts.listen or "",
        HTTP = opts.http or "", SERVER = opts.server or "", ECHO = echo_text(),
    }
    local self = server.start({
        http = TEMPLATE:gsub("%$([A-Z_]+)", values),
        workers = opts.workers, vars = opts.vars,
    })
    self.port = self.ports.tls
    self.tls_socket = self.dir .. "/tls.sock"
    self.plain_socket = self.dir .. "/plain.sock"
    return self
end


--- Takes the body of /echo apart.
---@param body string
---@return table<string, string> seen by the names of ECHO_VARIABLES
function _M.parse(body)
    local seen = {}
    for name, value in body:gmatch("([%w_]+): ([^\n]*)\n") do
        seen[name] = value
    end
    return seen
end


return _M
