--- The upstream of in_flight.lua: nginx that keeps calls waiting, each at its point.
---
---     /echo?id=7     "echo 7"
---     /held?id=7     no head, for a minute
---     /half?id=7     half of its body, and nothing for a minute
---     /unread?id=7   reads nothing of the request's body, for a minute
---     /taken?id=7    reads the request's body, then "taken 7 LENGTH"
---     /gated?id=7&gate=3   the same with "gated", once the gate has been released
---     /bytes?id=7&n=10   that many bytes, a number of eight digits over and over
---
--- In a handshake, the port for that waits as well. `/waiting` of the control port says how many
--- calls are at their points. One worker counts them.
local client = require("spec.support.client")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local _M = {}

local HTTP = [[
    ssl_certificate ${cert.server.crt};
    ssl_certificate_key ${cert.server.key};
    ssl_client_certificate ${cert.ca.crt};
    ssl_verify_client on;
    keepalive_requests 1000000;
    keepalive_timeout 1h;
    http2_max_requests 1000000;
    client_max_body_size 0;
    client_body_buffer_size 64k;
    default_type text/plain;
    log_format ids "$arg_id $uri $status $server_protocol";
    init_by_lua_block {
        waiting = 0
        function wait_here()
            waiting = waiting + 1
            ngx.sleep(60)
            waiting = waiting - 1
        end
        at_gate = {}
        -- By a file, since nobody can connect any more to one that is about to end.
        function is_released(gate)
            local file = io.open("${dir}/gate-" .. gate)
            return file and file:close()
        end
        function print_taken(word)
            ngx.req.read_body()
            local body, path = ngx.req.get_body_data(), ngx.req.get_body_file()
            if path then
                local file = io.open(path, "rb")
                body = file:read("*a")
                file:close()
            end
            ngx.print(word, " ", ngx.var.arg_id, " ", #(body or ""))
        end
    }

    server {
        listen ${address}:${port.h1} ssl backlog=1024;
        listen ${address}:${port.h2} ssl http2 backlog=1024;
        access_log ${dir}/access.log ids;
        location = /echo { content_by_lua_block { ngx.print("echo ", ngx.var.arg_id) } }
        location = /held { content_by_lua_block { wait_here() } }
        location = /half {
            content_by_lua_block {
                ngx.header.content_length = 20000
                ngx.print(("half"):rep(2500))
                ngx.flush(true)
                wait_here()
            }
        }
        location = /unread { content_by_lua_block { wait_here() } }
        location = /taken { content_by_lua_block { print_taken("taken") } }
        location = /gated {
            content_by_lua_block {
                local gate = ngx.var.arg_gate
                at_gate[gate] = (at_gate[gate] or 0) + 1
                while not is_released(gate) do
                    ngx.sleep(0.01)
                end
                print_taken("gated")
            }
        }
        location = /bytes {
            content_by_lua_block {
                local left = tonumber(ngx.var.arg_n)
                ngx.header.content_length = left
                local block = ("%08d"):format(ngx.var.arg_id):rep(1024)
                while left > 0 do
                    ngx.print(block:sub(1, left))
                    left = left - #block
                    assert(ngx.flush(true))
                end
            }
        }
    }
    server {
        listen ${address}:${port.handshake} ssl;
        # Says nothing more than that a connection was accepted.
        ssl_certificate_by_lua_block { wait_here() }
    }
    server {
        listen 127.0.0.1:${port.control};
        location = /waiting { content_by_lua_block { ngx.print(waiting) } }
        location = /at { content_by_lua_block { ngx.print(at_gate[ngx.var.arg_gate] or 0) } }
    }
]]

---@class InFlightServer
---@field server Nginx
---@field vars table<string, string|number> of chunks: address, and the ports h1, h2, handshake and
---control
local Server = {}
Server.__index = Server


--- Starts it.
---@param address string? to listen on for calls, 127.0.0.1 unless given
---@return InFlightServer
function _M.start(address)
    address = address or "127.0.0.1"
    local server = nginx.start({ http = HTTP, vars = { address = address }, log_level = "warn" })
    local ports = server.ports
    local vars = { h1 = ports.h1, h2 = ports.h2, control = ports.control,
                   handshake = ports.handshake, address = address }
    return setmetatable({ server = server, vars = vars }, Server)
end


--- Its variables for chunks, and more.
---@param more table<string, string|number>
---@return table<string, string|number>
function Server:vars_and(more)
    local vars = {}
    for _, source in ipairs({ self.vars, more }) do
        for name, value in pairs(source) do
            vars[name] = value
        end
    end
    return vars
end


local function await(server, path, count)
    process.wait_until(count .. " calls are at " .. path, function()
        local response = client.fetch({ port = server.vars.control, path = path })
        return response and tonumber(response.body) == count
    end, 30)
end


--- Waits until so many calls are at their points.
---@param count integer
function Server:await(count)
    await(self, "/waiting", count)
end


--- Waits until so many calls are at a gate, or have been.
---@param gate string|integer
---@param count integer
function Server:await_gate(gate, count)
    await(self, "/at?gate=" .. gate, count)
end


--- Answers those who are at a gate, and all who come later.
---@param gate string|integer
function Server:release(gate)
    fs.write(self.server.dir .. "/gate-" .. gate, "")
end


--- How often which id has been answered.
---@return table<string, integer> counts by id
---@return integer total
function Server:served()
    local counts, total = {}, 0
    for id in (fs.read(self.server.dir .. "/access.log") or ""):gmatch("([^ \n]+) [^\n]*\n") do
        counts[id] = (counts[id] or 0) + 1
        total = total + 1
    end
    return counts, total
end


function Server:stop()
    -- What is waiting there has nobody to wait for it.
    self.server.process:kill()
end


--- What chunks begin with: `targets`, of HTTP/1.1 and of HTTP/2, and `in_flight`. Chunk and spec
--- take turns: each says where it is, with a file in the gateway's folder.
_M.CHUNK = [[
    local http, in_flight = require("resty.mtls.http"), require("spec.support.in_flight")
    local cjson = require("cjson")

    local function target(name, port, http_version)
        return {
            name = name, timeouts = { 20000, 20000, 20000 },
            options = {
                scheme = "https", host = "${address}", port = port, http_version = http_version,
                ssl_server_name = "localhost", ssl_trusted_certificate = ${pem.ca.crt},
                ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key},
            },
        }
    end

    local targets = { target("h1", ${h1}, 1.1), target("h2", ${h2}, 2) }

    local function say(what)
        io.open("${dir}/" .. what, "w"):close()
    end

    local function await(what)
        assert(in_flight.wait_for_file("${dir}/" .. what), "nobody has said " .. what)
    end

    -- Nothing is left but so many files, and idle connections.
    local function assert_settled(files)
        assert(in_flight.settled(), "something is left in flight or open")
        if not in_flight.has_files(files) then
            error(files .. " files were open, and now " .. cjson.encode((in_flight.files())))
        end
    end
]]

return _M
