--- An nginx that runs Lua chunks of a spec in the phase that the spec names.
---
---     local gateway = nginx.gateway()
---     assert.equals("200\n", gateway:run([[
---         local http = require("resty.mtls.http")
---         print(http.new():request_uri("http://localhost:${up}/").status)
---     ]], { phase = "access", vars = { up = upstream.port } }))
---
--- A chunk says what it found with `print`; what it returns is printed too. inside.lua runs it.
local fs = require("spec.support.fs")
local process = require("spec.support.process")
local server = require("spec.support.nginx.server")
local template = require("spec.support.template")

local _M = {}

local TEMPLATE = [[
    init_by_lua_block { require("spec.support.inside").run_if_present("init") }
    init_worker_by_lua_block { require("spec.support.inside").run_if_present("init_worker") }
    exit_worker_by_lua_block { require("spec.support.inside").run_if_present("exit_worker") }
    lua_code_cache $CODE_CACHE;
    $HTTP

    upstream picked_by_lua {
        server 0.0.0.1;
        balancer_by_lua_block {
            require("spec.support.inside").run(ngx.var.arg_chunk)
            assert(require("ngx.balancer").set_current_peer("127.0.0.1", ${port.gateway}))
        }
    }

    server {
        listen 127.0.0.1:${port.gateway};
        client_max_body_size 0;
        location = /ok { return 200 "ok"; }
        location = /run/set {
            set_by_lua_block $unused { require("spec.support.inside").run(ngx.var.arg_chunk) }
            return 200;
        }
        location = /run/rewrite {
            rewrite_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
            content_by_lua_block { }
        }
        location = /run/access {
            access_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
            content_by_lua_block { }
        }
        location = /run/content {
            content_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
        }
        location = /run/header_filter {
            header_filter_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
            return 200 "ok";
        }
        location = /run/body_filter {
            body_filter_by_lua_block { require("spec.support.inside").run_once(ngx.var.arg_chunk) }
            return 200 "ok";
        }
        location = /run/log {
            log_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
            return 200;
        }
        location = /run/balancer {
            proxy_pass http://picked_by_lua/ok;
        }
        location = /run/timer {
            content_by_lua_block {
                local inside, chunk = require("spec.support.inside"), ngx.var.arg_chunk
                assert(ngx.timer.at(0, function() inside.run(chunk) end))
            }
        }
        $SERVER
    }
    server {
        listen 127.0.0.1:${port.ssl_certificate} ssl;
        ssl_certificate ${cert.server.crt};
        ssl_certificate_key ${cert.server.key};
        ssl_certificate_by_lua_block {
            local name = require("ngx.ssl").server_name()
            require("spec.support.inside").run(name:match("^(%d+)%."))
        }
        location / { return 200; }
    }
    server {
        listen 127.0.0.1:${port.ssl_client_hello} ssl;
        ssl_certificate ${cert.server.crt};
        ssl_certificate_key ${cert.server.key};
        ssl_client_hello_by_lua_block {
            local name = require("ngx.ssl.clienthello").get_client_hello_server_name()
            require("spec.support.inside").run(name:match("^(%d+)%."))
        }
        location / { return 200; }
    }
]]

---@class GatewayOptions: NginxOptions
---@field http string? further configuration in http{}
---@field server string? further configuration in the server of `port`
---@field code_cache "on"|"off"? on unless given
---@field init string? chunk that runs in init_by_lua
---@field init_worker string? chunk that runs in init_worker_by_lua
---@field exit_worker string? chunk that runs in exit_worker_by_lua

---@class RunOptions
---@field phase string? content unless given: set, rewrite, access, content, header_filter,
---body_filter, log, balancer, timer, ssl_certificate, ssl_client_hello, init, init_worker,
---exit_worker
---@field vars table<string, string|number>? placeholders of the chunk
---@field timeout number? seconds, 15 unless given

---@class Gateway: Nginx
---@field chunks integer
local Gateway = setmetatable({}, { __index = server.Nginx })
Gateway.__index = Gateway


---@class Run a chunk that has been started
---@field exchange Exchange? the request that carries it
local Run = {}
Run.__index = Run


--- Starts a gateway.
---@param opts GatewayOptions?
---@return Gateway
function _M.start(opts)
    opts = opts or {}
    local values = { HTTP = opts.http or "", SERVER = opts.server or "",
                     CODE_CACHE = opts.code_cache or "on" }
    local copy = {}
    for name, value in pairs(opts) do
        copy[name] = value
    end
    copy.http = TEMPLATE:gsub("%$([A-Z_]+)", values)
    copy.files = { ["chunk-init"] = opts.init, ["chunk-init_worker"] = opts.init_worker,
                   ["chunk-exit_worker"] = opts.exit_worker }

    local self = setmetatable(server.start(copy), Gateway)
    self.chunks = 0
    self.port = self.ports.gateway
    return self
end


--- Runs one chunk in a gateway that is started and stopped for it.
---@param code string
---@param opts (RunOptions | GatewayOptions)?
---@return string output
function _M.run_lua(code, opts)
    opts = opts or {}
    local copy = {}
    for name, value in pairs(opts) do
        copy[name] = value
    end

    local phase = opts.phase or "content"
    local own_phase = phase == "init" or phase == "init_worker" or phase == "exit_worker"
    if own_phase then
        copy[phase] = code
    end
    local gateway = _M.start(copy)
    if phase == "exit_worker" then
        gateway:stop()
    end
    local ok, output = pcall(function()
        return own_phase and gateway:result_of(phase, opts.timeout) or gateway:run(code, opts)
    end)
    gateway:stop()
    if not ok then
        error(output, 2)
    end
    return output
end


--- Runs a chunk and waits for its end. An error in the chunk is an error here.
---@param code string
---@param opts RunOptions?
---@return string output
function Gateway:run(code, opts)
    return self:begin(code, opts):wait(opts and opts.timeout)
end


--- Starts a chunk and returns at once.
---@param code string
---@param opts RunOptions?
---@return Run
function Gateway:begin(code, opts)
    opts = opts or {}
    self.chunks = self.chunks + 1
    local id = tostring(self.chunks)
    local vars = { dir = self.dir }
    for name, value in pairs(opts.vars or {}) do
        vars[name] = value
    end
    fs.write(self.dir .. "/chunk-" .. id, template.expand(code, vars, self.ports))

    local phase = opts.phase or "content"
    local run = setmetatable({ gateway = self, id = id }, Run)
    if phase:find("^ssl_") then
        -- The handshake ends when the chunk does, so this waits.
        local exchange = require("spec.support.client").send({
            port = self.ports[phase], path = "/", sni = id .. ".test",
        })
        run.exchange = exchange
    else
        run.exchange = self:send("/run/" .. phase .. "?chunk=" .. id)
    end
    return run
end


--- Tells a chunk something, by an empty file in the gateway's folder.
---@param what string
function Gateway:say(what)
    fs.write(self.dir .. "/" .. what, "")
end


--- Waits until a chunk tells something that way.
---@param what string
function Gateway:await(what)
    process.wait_until("a chunk says " .. what, function()
        return fs.exists(self.dir .. "/" .. what)
    end, 30)
end


--- Waits for the end of the chunk that ran in init, init_worker or exit_worker.
---@param id string phase
---@param timeout number? seconds, 15 unless given
---@return string output
function Gateway:result_of(id, timeout)
    local path = self.dir .. "/result-" .. id
    local result = process.wait_until("chunk " .. id .. " has ended", function()
        return fs.read(path)
    end, timeout or 15)
    os.remove(path)
    local outcome, output = result:match("^(%a+)\n(.*)$")
    if outcome ~= "ok" then
        error(output, 0)
    end
    return output
end


--- Has the chunk ended?
---@return boolean
function Run:is_done()
    return fs.exists(self.gateway.dir .. "/result-" .. self.id)
end


--- Waits for the end of the chunk and gives what it printed.
---@param timeout number? seconds, 15 unless given
---@return string output
function Run:wait(timeout)
    local ok, output = pcall(self.gateway.result_of, self.gateway, self.id, timeout)
    if self.exchange then
        self.exchange:abort()
    end
    if not ok then
        error(output .. "\n" .. self.gateway:error_log():sub(-4000), 2)
    end
    return output
end


--- Closes the connection of the request that carries the chunk, as an impatient client does.
function Run:abort()
    self.exchange:abort()
end


return _M
