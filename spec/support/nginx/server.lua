--- One nginx with a configuration of the spec's, in a folder of its own.
local client = require("spec.support.client")
local fs = require("spec.support.fs")
local groups = require("spec.support.groups")
local lfs = require("lfs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")
local system = require("system")
local template = require("spec.support.template")

local _M = {}

local TEMPLATE = [[
load_module /usr/lib/nginx/modules/ndk_http_module.so;
load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;
daemon off;
pid ${dir}/nginx.pid;
error_log ${dir}/error.log ${log_level};
worker_processes ${workers};
${directives}
events {
    worker_connections ${connections};
    ${events}
}
http {
    access_log off;
    client_body_temp_path ${dir}/client_body;
    proxy_temp_path ${dir}/proxy;
    fastcgi_temp_path ${dir}/fastcgi;
    uwsgi_temp_path ${dir}/uwsgi;
    scgi_temp_path ${dir}/scgi;
    lua_package_path "${lua_path}${repo}/lua/?.lua;${repo}/?.lua;;";
    lua_package_cpath "${repo}/build/lualib/?.so;;";
    ${http}
}
]]

---@class NginxOptions
---@field http string what goes into http{}; may use the placeholders of template.lua and ${dir}
---@field main string? what goes beside http{}
---@field events string? what goes into events{}
---@field workers integer? 1 unless given
---@field connections integer? of each worker, 2048 unless given
---@field user string? of the workers, with group: "nobody nogroup"; root when root runs the specs
---@field env table<string, string|false>? environment of nginx, passed on to its workers
---@field hidden_env table<string, string>? environment of nginx that it keeps from its workers
---@field lua_path string? comes before the other patterns of lua_package_path, ends with ";"
---@field log_level string? info unless given
---@field vars table<string, string|number>? placeholders
---@field files table<string, string>? written into the folder before the start
---@field under string[]? program that nginx runs under, as one process without workers
---@field through string[]? program that becomes nginx in the end, as `env` does

---@class Nginx
---@field dir string its folder
---@field ports table<string, integer> by the name in ${port.name}
---@field port integer the first one in the configuration
---@field process Process
---@field workers integer
---@field argv string[] its command
---@field env table<string, string|false>
---@field patience number? seconds that it may take to start
local Nginx = {}
Nginx.__index = Nginx
_M.Nginx = Nginx


local function directives(opts)
    local lines = {}
    -- Only the super-user may choose; other users keep what they are.
    local is_root = lfs.attributes("/proc/self", "uid") == 0
    if is_root then
        lines[#lines + 1] = "user " .. (opts.user or "root") .. ";"
    end
    for name in pairs(opts.env or {}) do
        lines[#lines + 1] = "env " .. name .. ";"
    end
    if opts.under then
        lines[#lines + 1] = "master_process off;"
    end
    lines[#lines + 1] = opts.main
    return table.concat(lines, "\n")
end


local function environment(opts)
    local env = {}
    for _, variables in ipairs({ opts.env or {}, opts.hidden_env or {} }) do
        for name, value in pairs(variables) do
            env[name] = value
        end
    end
    return env
end


local function configure(dir, opts, known_ports)
    local vars = { dir = dir }
    for name, value in pairs(opts.vars or {}) do
        vars[name] = value
    end
    local function expand(text)
        return template.expand(text or "", vars, known_ports)
    end

    for name, content in pairs(opts.files or {}) do
        fs.write(dir .. "/" .. name, expand(content))
    end
    fs.write(dir .. "/nginx.conf", template.expand(TEMPLATE, {
        dir = dir, workers = opts.workers or 1, connections = opts.connections or 2048,
        log_level = opts.log_level or "info",
        lua_path = opts.lua_path or "", directives = expand(directives(opts)),
        events = expand(opts.events), http = expand(opts.http),
    }))
end


--- Starts nginx and returns when it accepts connections.
---@param opts NginxOptions
---@return Nginx
function _M.start(opts)
    local dir = fs.temp_dir("nginx")
    local workers = opts.under and 0 or opts.workers or 1
    local self = setmetatable({ dir = dir, ports = {}, workers = workers }, Nginx)
    if opts.user then
        fs.open_to_all(dir)
    end
    configure(dir, opts, self.ports)
    self.port = self.ports[(opts.http:match("%${port%.([^}]+)}"))]

    self.argv, self.env = { unpack(opts.under or opts.through or {}) }, environment(opts)
    for _, argument in ipairs({ "nginx", "-p", dir .. "/", "-c", dir .. "/nginx.conf",
                                "-e", dir .. "/error.log" }) do
        self.argv[#self.argv + 1] = argument
    end
    self.patience = opts.under and 60
    self:start_again()
    return self
end


--- Starts it with the folder, the configuration and the ports that it had, after it has ended.
function Nginx:start_again()
    os.remove(self.dir .. "/nginx.pid")
    self.process = process.start(self.argv, { env = self.env, log = self.dir .. "/output" })
    -- The sockets listen before the pid file is there.
    process.wait_until("nginx has started", function()
        if not self.process:is_running() then
            error("nginx did not start:\n" .. self.process:output() .. self:error_log(), 0)
        end
        return (fs.read(self.dir .. "/nginx.pid") or ""):find("%d")
            and #self:worker_pids() >= self.workers
    end, self.patience)
end


--- Ends master and workers with SIGKILL, and returns when another one can take their place.
function Nginx:kill()
    local group = self.process.pid
    self.process:kill()
    process.wait_until("the workers are gone", function() return #groups.members(group) == 0 end)
    process.wait_until("nobody listens there", function()
        for _, port in pairs(self.ports) do
            if not ports.is_free(port) then
                return false
            end
        end
        return true
    end)
end


--- Pid of the master.
---@return integer
function Nginx:pid()
    return self.process.pid
end


--- Pids of the living workers, those that are shutting down too.
---@return integer[]
function Nginx:worker_pids()
    return groups.children(self.process.pid)
end


--- Everything in error.log so far.
---@return string
function Nginx:error_log()
    return fs.read(self.dir .. "/error.log") or ""
end


--- Waits until a line of error.log matches.
---@param pattern string Lua pattern
---@param timeout number? seconds
---@return string match
function Nginx:wait_for_log(pattern, timeout)
    return process.wait_until("error.log has " .. pattern, function()
        return self:error_log():match(pattern)
    end, timeout)
end


--- Loads the configuration anew and returns when new workers have taken over. Old ones may linger
--- while they have requests to finish.
---@param http string? replaces what is in http{}, with the same placeholders and ports
function Nginx:reload(http)
    if http then
        local path = self.dir .. "/nginx.conf"
        local kept = fs.read(path):match("^(.-lua_package_cpath[^\n]*\n)")
        local text = template.expand(http, { dir = self.dir }, self.ports)
        fs.write(path, kept .. text .. "\n}\n")
    end

    local old = {}
    for _, pid in ipairs(self:worker_pids()) do
        old[pid] = true
    end
    self.process:signal("HUP")
    process.wait_until("nginx has new workers", function()
        local fresh = 0
        for _, pid in ipairs(self:worker_pids()) do
            fresh = fresh + (old[pid] and 0 or 1)
        end
        return fresh >= self.workers
    end)
end


--- Asks for a graceful end and returns at once.
function Nginx:quit()
    self.process:signal("QUIT")
end


--- Ends it gracefully. Anything that is left of it after that time is an error.
---@param timeout number? seconds, 10 unless given
---@return number seconds that it took
function Nginx:stop(timeout)
    local started = system.monotime()
    if self.process:is_running() then
        local code = self.process:stop("QUIT", timeout)
        if code ~= 0 then
            error("nginx ended with code " .. code .. "\n" .. self:error_log(), 2)
        end
    end
    return system.monotime() - started
end


local function request(self, path, opts)
    local copy = { path = path, port = self.port }
    for name, value in pairs(opts or {}) do
        copy[name] = value
    end
    return copy
end


--- Sends a request and waits for its response; failing to get one is an error.
---@param path string
---@param opts ClientRequest? port is `self.port` unless given
---@return ClientResponse
function Nginx:get(path, opts)
    return assert(client.fetch(request(self, path, opts)))
end


--- Sends a request; `:receive()` of what it returns waits for the response.
---@param path string
---@param opts ClientRequest?
---@return Exchange
function Nginx:send(path, opts)
    return assert(client.send(request(self, path, opts)))
end


return _M
