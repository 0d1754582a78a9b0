--- Thousands of connections and requests of one worker: an upstream that holds requests until it is
--- told to let them go, a gateway for chunks, and what such chunks begin with.
local nginx = require("spec.support.nginx")
local prelude = require("spec.support.prelude")

local _M = {}

-- One worker, so that whoever releases meets all who are held.
local UPSTREAM = [[
    ssl_certificate ${cert.server.crt};
    ssl_certificate_key ${cert.server.key};
    ssl_client_certificate ${cert.ca.crt};
    ssl_verify_client on;
    ssl_protocols TLSv1.2 TLSv1.3;
    keepalive_requests 1000000;
    keepalive_timeout 1h;
    lua_shared_dict counts 1m;
    init_by_lua_block { gate, held = require("ngx.semaphore").new(0), 0 }

    server {
        listen 127.0.0.1:${port.h1} ssl backlog=4096;
        listen 127.0.0.1:${port.h2} ssl http2 backlog=4096;
        listen 127.0.0.1:${port.control};
        http2_max_concurrent_streams ${streams};
        http2_max_requests 1000000;
        default_type text/plain;

        location = /echo { return 200 "$ssl_client_s_dn $server_protocol\n"; }
        location = /held {
            content_by_lua_block {
                held = held + 1
                local ok, err = gate:wait(600)
                held = held - 1
                ngx.print(ok and ngx.var.arg_id or err)
            }
        }
        location = /count { content_by_lua_block { ngx.print(held) } }
        location = /release {
            content_by_lua_block {
                ngx.print(held)
                gate:post(held)
            }
        }
    }
]]

--- Chunks begin with this. `vars` are those of `scale.start`.
_M.TOOLS = prelude .. [[
    local ports = { h1 = ${h1}, h2 = ${h2} }
    patience = 60

    local function options_of(version)
        return identified{ scheme = "https", host = "127.0.0.1", port = ports[version],
                           ssl_server_name = "localhost",
                           http_version = version == "h2" and 2 or nil }
    end

    -- Calls fn(1) to fn(count), so many at a time. An error in one is an error here.
    local function each(count, at_a_time, fn)
        local next_one, threads = 0, {}
        for i = 1, math.min(count, at_a_time) do
            threads[i] = ngx.thread.spawn(function()
                while next_one < count do
                    next_one = next_one + 1
                    fn(next_one)
                end
            end)
        end
        for i = 1, #threads do
            assert(ngx.thread.wait(threads[i]))
        end
    end

    local function ask(httpc, path)
        local res = assert(httpc:request({ path = path }))
        assert(res.status == 200, res.status)
        return assert(res:read_body())
    end

    -- A client that has had an answer on its connection.
    local function connected(options)
        local httpc = http.new()
        httpc:set_timeout(600000)
        assert(httpc:connect(options))
        assert(ask(httpc, "/echo"):find("CN=client-a", 1, true))
        return httpc
    end

    -- What the upstream says on a connection of nginx's own, which is none of the library's.
    local function control(path)
        local sock = ngx.socket.tcp()
        assert(sock:connect("127.0.0.1", ${control}))
        assert(sock:send("GET " .. path .. " HTTP/1.0\r\n\r\n"))
        local answer = assert(sock:receive("*a"))
        sock:close()
        return answer:match("\r\n\r\n(.*)$")
    end

    local function are_held(count)
        return wait_until(function() return tonumber(control("/count")) == count end)
    end

    -- KiB of this process: all that is in memory, and what Lua counts as its own of it. Garbage is
    -- collected before, unless that is not wanted.
    local function memory(as_it_is)
        if not as_it_is then
            collectgarbage()
            collectgarbage()
        end
        local status = io.open("/proc/" .. ngx.worker.pid() .. "/status"):read("*a")
        return { rss = tonumber(status:match("VmRSS:%s*(%d+)")), lua = collectgarbage("count") }
    end

    -- Waits for memory to come down to a share of what has come since `before`: what share is left.
    local function share_kept(before, most, share)
        local kept
        wait_until(function()
            kept = (memory().rss - before.rss) / (most.rss - before.rss)
            return kept < share
        end)
        return kept
    end
]]

--- A chunk for `format`: opens so many connections, has an answer on each, and puts them all into
--- the pool until they expire. It prints figures.
_M.IDLE = [[
    local count = %d
    local options = options_of("h1")
    connected(options):close()
    local before = memory()
    local clients = {}
    each(count, 64, function(i) clients[i] = connected(options) end)
    for i = 1, count do
        assert(clients[i]:set_keepalive(4000, count) == 1)
    end
    clients = nil
    -- Not a yield since the first of them is idle: none has expired.
    local most = memory()
    print("idle=" .. stats().connections_idle)
    print("each=" .. (most.rss - before.rss) * 1024 / count)
    print("lua=" .. (most.lua - before.lua) * 1024 / count)
    assert(wait_until(function() return stats().connections_open == 0 end))
    print("left=" .. stats().connections_idle + stats().operations_in_flight)
    print("kept=" .. share_kept(before, most, 0.5))
    print("before=" .. before.rss, "most=" .. most.rss, "after=" .. memory().rss)
]]

--- A chunk for `format`: has so many requests in flight over "h1" or "h2", each in a light thread
--- with a client of its own, passes others by them, and lets them go. It prints figures.
_M.IN_FLIGHT = [[
    local version, count = "%s", %d
    local options = options_of(version)
    connected(options):close()
    local before = memory()
    local threads, answered = {}, 0
    local function hold(id)
        local httpc = http.new()
        httpc:set_timeout(600000)
        assert(httpc:connect(options))
        assert(ask(httpc, "/held?id=" .. id) == tostring(id))
        assert(httpc:set_keepalive(2000, count) == 1)
        answered = answered + 1
    end
    for i = 1, count do
        threads[i] = ngx.thread.spawn(hold, i)
        -- No more handshakes at a time than a listener's queue takes.
        if i %% 64 == 0 then
            assert(are_held(i))
        end
    end
    assert(are_held(count))
    local most = memory()
    print("flying=" .. stats().operations_in_flight, "connections=" .. stats().connections_open)
    print("each=" .. (most.rss - before.rss) * 1024 / count)
    print("lua=" .. (most.lua - before.lua) * 1024 / count)

    local passed = 0
    each(50, 1, function()
        local httpc = http.new()
        assert(httpc:connect(options))
        assert(ask(httpc, "/echo"):find("CN=client-a", 1, true))
        assert(httpc:set_keepalive(2000, count) == 1)
        passed = passed + (stats().operations_in_flight == count and 1 or 0)
    end)
    print("passed=" .. passed)

    local wakes = stats().wakes
    assert(tonumber(control("/release")) == count)
    for i = 1, count do
        assert(ngx.thread.wait(threads[i]))
    end
    threads = nil
    print("answered=" .. answered, "wakes=" .. stats().wakes - wakes)
    assert(wait_until(function() return stats().connections_open == 0 end))
    print("left=" .. stats().connections_idle + stats().operations_in_flight)
    print("before=" .. before.rss, "most=" .. most.rss)
]]

--- A chunk that waits for memory to be given back, for longer than that may take, and prints what
--- is left.
_M.LATER = [[
    memory()
    ngx.sleep(14)
    print("after=" .. memory().rss)
]]

--- Behind TOOLS, for chunks that take the file descriptors of their worker away.
_M.DESCRIPTORS = [[
    local ffi = require("ffi")
    ffi.cdef("int dup(int fd); int close(int fd);")

    -- All but so many.
    local function take_descriptors(left)
        local taken = {}
        while true do
            local fd = ffi.C.dup(1)
            if fd < 0 then
                break
            end
            taken[#taken + 1] = fd
        end
        for _ = 1, left do
            ffi.C.close(table.remove(taken))
        end
        return taken
    end

    local function give_back(taken)
        for i = 1, #taken do
            ffi.C.close(taken[i])
        end
    end

    -- The next operation has to open a wake socket.
    local function no_dispatcher()
        assert(wait_until(function() return ngx.timer.running_count() == 0 end))
    end

    -- The number that is in the path of the wake socket, when there is one.
    local function wake_number(httpc)
        local thread = ngx.thread.spawn(ask, httpc, "/held?id=0")
        local number
        assert(wait_until(function()
            local sockets = io.open("/proc/net/unix"):read("*a")
            number = sockets:match("/resty%-mtls%-" .. ngx.worker.pid() .. "%-(%d+)/wake")
            return number
        end))
        assert(are_held(1))
        control("/release")
        assert(ngx.thread.wait(thread))
        return tonumber(number)
    end

    -- /dev/shm, /tmp, nginx's folder, and TMPDIR if it is set.
    local function places_of_wake_sockets()
        return os.getenv("TMPDIR") and 4 or 3
    end

    -- Ticks of CPU of this process, all its threads. The file is opened while that can be done.
    local function usage_counter()
        local file = io.open("/proc/self/stat")
        return function()
            file:seek("set", 0)
            local fields = file:read("*a"):match("%) (.*)")
            local user, system = fields:match("^" .. ("%S+ "):rep(11) .. "(%d+) (%d+)")
            return tonumber(user) + tonumber(system)
        end
    end
]]


---@class ScaleOptions
---@field connections integer of each worker
---@field streams integer? of an HTTP/2 connection at a time, 128 unless given
---@field under string[]? program that the gateway runs under

---@class Scale
---@field upstream Nginx
---@field gateway Gateway
---@field vars table<string, integer> for chunks
local Scale = {}
Scale.__index = Scale


--- Starts upstream and gateway.
---@param opts ScaleOptions
---@return Scale
function _M.start(opts)
    local main = "worker_rlimit_nofile " .. 2 * opts.connections .. ";"
    local upstream = nginx.start({
        http = UPSTREAM, vars = { streams = opts.streams or 128 }, main = main,
        connections = opts.connections, log_level = "warn",
    })
    local ports = upstream.ports
    local vars = { up = ports.h1, h1 = ports.h1, h2 = ports.h2, control = ports.control }
    local gateway = nginx.gateway({
        main = main, connections = opts.connections, log_level = "warn", vars = vars,
        http = "lua_max_running_timers 8192; lua_max_pending_timers 8192;",
        under = opts.under,
    })
    return setmetatable({ upstream = upstream, gateway = gateway, vars = vars }, Scale)
end


--- Runs a chunk, which begins with TOOLS, in the gateway.
---@param chunk string
---@param timeout number? seconds
---@return string output
function Scale:run(chunk, timeout)
    return self.gateway:run(_M.TOOLS .. chunk, { vars = self.vars, timeout = timeout or 60 })
end


--- Ends both, and waits until they have.
function Scale:stop()
    self.gateway:stop()
    self.upstream:stop()
end


--- Ends both the hard way, after an error.
function Scale:kill()
    self.gateway.process:kill()
    self.upstream.process:kill()
end


return _M
