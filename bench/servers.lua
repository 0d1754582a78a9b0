--- The two nginx: a gateway with one worker, and an upstream that demands client certificates.
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local _M = {}

-- Room for 64 MiB at many places.
local RANDOM_MIB = 96

-- Bodies are ranges of a file of random bytes, each from a place of its own. Bodies that resemble
-- each other would be flattered: LuaJIT keeps one copy of equal strings.
local SITE = [[
    server {
        listen 127.0.0.1:${port.$NAME} ssl http2;
        ssl_certificate ${cert.$CERT.crt};
        ssl_certificate_key ${cert.$CERT.key};

        location = /random {
            root ${data};
            rewrite_by_lua_block {
                local bytes = tonumber(ngx.var.arg_n)
                local first = math.random(0, ${size} - bytes)
                ngx.req.set_header("Range", "bytes=" .. first .. "-" .. first + bytes - 1)
            }
        }
        location = /upload {
            client_max_body_size 0;
            client_body_buffer_size 2m;
            root ${data};
            rewrite_by_lua_block {
                ngx.req.read_body()
                ngx.req.set_method(ngx.HTTP_GET)
                ngx.req.set_uri_args("n=1024")
                ngx.req.set_uri("/random", true)
            }
        }
        location = /seen {
            return 200 "$SEEN";
        }
    }
]]

local SEEN = "$server_protocol, $ssl_client_verify $ssl_client_s_dn, $ssl_protocol, "
    .. "$ssl_cipher, $ssl_curve, session reused: $ssl_session_reused"


local function site(name, identity)
    return (SITE:gsub("%$([A-Z]+)", { NAME = name, CERT = identity, SEEN = SEEN }))
end


local UPSTREAM = [[
    ssl_client_certificate ${cert.ca.crt};
    ssl_verify_client on;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_tickets on;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    output_buffers 2 256k;
    open_file_cache max=10;
]] .. site("ecdsa", "server") .. site("rsa", "server-rsa")

-- lua_ssl_* is for the peer; ours has the same as options.
local GATEWAY = [[
    init_by_lua_block {
        require("bench.gateway").set_up({
            ports = { ecdsa = ${ecdsa}, rsa = ${rsa} },
            ca = "${cert.ca.crt}",
            identities = {
                ecdsa = { cert = "${cert.client-a.crt}", key = "${cert.client-a.key}" },
                rsa = { cert = "${cert.client-rsa.crt}", key = "${cert.client-rsa.key}" },
            },
            peers = { peer = "${peer}", memoised = "${memoised}" },
        })
    }
    lua_ssl_protocols TLSv1.2 TLSv1.3;
    lua_ssl_trusted_certificate ${cert.ca.crt};
    lua_ssl_verify_depth 3;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;

    server {
        listen 127.0.0.1:${port.gateway};
        location = /other { return 200 "ok"; }
        location = /call {
            content_by_lua_block { require("bench.gateway").call() }
        }
        location = /warm-up {
            content_by_lua_block { require("bench.gateway").warm_up() }
        }
        location = /seen {
            content_by_lua_block { require("bench.gateway").seen() }
        }
        location = /state {
            content_by_lua_block { require("bench.gateway").state() }
        }
    }
]]


local function random_file()
    local folder = fs.temp_dir("data")
    local source = assert(io.open("/dev/urandom", "rb"))
    local file = assert(io.open(folder .. "/random", "wb"))
    for _ = 1, RANDOM_MIB do
        assert(file:write(source:read(1024 * 1024)))
    end
    file:close()
    source:close()
    return folder
end


--- Starts the upstream.
---@return Nginx
function _M.upstream()
    return nginx.start({
        http = UPSTREAM, log_level = "warn",
        vars = { data = random_file(), size = RANDOM_MIB * 1024 * 1024 },
    })
end


--- What nginx.start takes for the gateway.
---@param upstream Nginx
---@param peer Peer?
---@return NginxOptions
function _M.gateway_options(upstream, peer)
    return {
        http = GATEWAY, log_level = "warn", lua_path = peer and peer.lua_path,
        vars = {
            ecdsa = upstream.ports.ecdsa, rsa = upstream.ports.rsa,
            peer = peer and peer.root or "", memoised = peer and peer.memoised or "",
        },
    }
end


--- Starts the gateway.
---@param upstream Nginx
---@param peer Peer?
---@return Nginx
function _M.gateway(upstream, peer)
    return nginx.start(_M.gateway_options(upstream, peer))
end


--- Gives the gateway a worker that nobody has used: neither side finds the other's garbage or
--- compiled traces.
---@param gateway Nginx
---@return integer pid
function _M.renew_worker(gateway)
    gateway:reload()
    process.wait_until("the old worker is gone", function()
        return #gateway:worker_pids() == 1
    end, 30)
    return gateway:worker_pids()[1]
end


return _M
