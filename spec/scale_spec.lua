local nginx = require("spec.support.nginx")
local scale = require("spec.support.scale")

-- Bounds on memory are about half as much again as was seen: what glibc and LuaJIT keep of what was
-- freed is in it too.
local KIB = 1024


-- Starts both, for one spec: memory that another one has left behind would be used first.
local function with_scale(opts, check)
    local servers = scale.start(opts)
    finally(function() servers:kill() end)
    check(function(chunk) return servers:run(chunk) end, servers)
    for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
        assert.is_nil(servers.gateway:error_log():match("[^\n]*%[" .. level .. "%][^\n]*"))
    end
    servers:stop()
end


local function figures(text)
    local named = {}
    for name, value in text:gmatch("(%w+)=([%d.-]+)") do
        named[name] = tonumber(value)
    end
    return named
end


describe("2000 idle connections", function()
    it("take little memory each, are swept, and give it back", function()
        with_scale({ connections = 4096 }, function(run)
            local seen = figures(run(scale.IDLE:format(2000)))
            assert.equals(2000, seen.idle)
            assert.is_true(seen.each < 24 * KIB, seen.each .. " bytes each")
            assert.equals(0, seen.left)
            assert.is_true(seen.kept < 0.5, seen.kept .. " of the memory is kept")
        end)
    end)
end)


-- nginx allows 128 streams on a connection.
local VERSIONS = {
    h1 = { name = "HTTP/1.1", connections = 500, bound = 24 * KIB },
    h2 = { name = "HTTP/2", connections = 4, bound = 12 * KIB },
}

for version, expected in pairs(VERSIONS) do
    describe("500 requests in flight over " .. expected.name, function()
        it("take little memory each, let others through, and are all answered", function()
            with_scale({ connections = 2048 }, function(run)
                local seen = figures(run(scale.IN_FLIGHT:format(version, 500)))
                assert.equals(500, seen.flying)
                assert.equals(expected.connections, seen.connections)
                assert.is_true(seen.each < expected.bound, seen.each .. " bytes each")
                assert.equals(50, seen.passed)
                assert.equals(500, seen.answered)
                assert.equals(0, seen.left)
            end)
        end)
    end)
end


describe("clients that Lua has not collected yet", function()
    it("hold little memory", function()
        with_scale({ connections = 512 }, function(run)
            local bytes = tonumber(run([[
                local options = options_of("h1")
                local function visit()
                    local httpc = http.new()
                    assert(httpc:connect(options))
                    assert(ask(httpc, "/echo"))
                    assert(httpc:set_keepalive(600000))
                end
                each(200, 1, visit)
                local before = memory()
                collectgarbage("stop")
                each(2000, 1, visit)
                local after = memory("as it is")
                collectgarbage("restart")
                print(((after.rss - before.rss) - (after.lua - before.lua)) * 1024 / 2000)
            ]]))
            assert.is_true(bytes < 1.5 * KIB, bytes .. " bytes each")
        end)
    end)
end)


describe("connections of HTTP/2", function()
    -- Of the handshakes behind the first, none ends before three have begun.
    local SLOW = [[
        ssl_certificate ${cert.server.crt};
        ssl_certificate_key ${cert.server.key};
        init_by_lua_block { began = 0 }
        server {
            listen 127.0.0.1:${port.slow} ssl http2;
            http2_max_concurrent_streams 2;
            ssl_certificate_by_lua_block {
                began = began + 1
                while began > 1 and began < 4 do
                    ngx.sleep(0.01)
                end
            }
            location = /held { content_by_lua_block { ngx.sleep(0.5) ngx.print("held") } }
        }
    ]]

    it("are opened at the same time, as many as those who wait will need", function()
        local upstream = nginx.start({ http = SLOW })
        finally(function() upstream.process:kill() end)
        local gateway = nginx.gateway()
        finally(function() gateway.process:kill() end)
        assert.equals("8\t4\n", gateway:run([[
            local http = require("resty.mtls.http")
            local function ask()
                local httpc = http.new()
                httpc:set_timeout(10000)
                assert(httpc:connect({ scheme = "https", host = "localhost", port = ${slow},
                                       http_version = 2, ssl_session_reuse = false,
                                       ssl_trusted_certificate = ${pem.ca.crt} }))
                local body = assert(assert(httpc:request({ path = "/held" })):read_body())
                httpc:set_keepalive()
                return body
            end
            -- What the server allows is known from the first.
            local threads = { ngx.thread.spawn(ask) }
            while http.stats().requests < 1 do
                ngx.sleep(0.01)
            end
            for i = 2, 8 do
                threads[i] = ngx.thread.spawn(ask)
            end
            local good = 0
            for i = 1, 8 do
                local _, body = assert(ngx.thread.wait(threads[i]))
                good = good + (body == "held" and 1 or 0)
            end
            print(good, http.stats().connections_opened)
        ]], { vars = { slow = upstream.ports.slow } }))
        gateway:stop()
        upstream:stop()
    end)
end)


-- Chunks that run without file descriptors to be had.
describe("without a file descriptor", function()
    local servers, gateway

    setup(function() servers = scale.start({ connections = 1024 }) end)
    teardown(function() servers:stop() end)

    before_each(function()
        gateway = nginx.gateway({
            main = "worker_rlimit_nofile 400;", connections = 512, vars = servers.vars,
            log_level = "warn",
        })
    end)
    after_each(function()
        assert.equals(1, #gateway:worker_pids())
        assert.not_matches("exited on signal", gateway:error_log())
        gateway:stop()
    end)

    local function run(chunk)
        return gateway:run(scale.TOOLS .. scale.DESCRIPTORS .. chunk,
                           { vars = servers.vars, timeout = 40 })
    end

    local EXPECTED = [[
first: internal options hint
connect: connect_failed connect hint
http2: connect_failed connect hint
name: dns_failed resolve hint
files: bad_certificate_pem options hint
system: bad_certificate_pem options hint
first: true
connect: true
http2: true
name: true
files: true
system: server_certificate_untrusted tls
]]

    it("calls say so, whatever they need one for, and work when there are some again", function()
        assert.equals(EXPECTED, run([[
            local function try(what, options)
                local httpc = http.new()
                local ok, err, details = httpc:connect(options)
                if ok then
                    ok = ask(httpc, "/echo"):find("CN=client-", 1, true) ~= nil
                    httpc:close()
                    return print(what .. ": " .. tostring(ok))
                end
                local hint = ""
                if details.hint:find("worker_rlimit_nofile", 1, true) then
                    hint = " hint"
                    assert(err:find("Too many open files", 1, true), err)
                end
                print(what .. ": " .. details.code .. " " .. details.stage .. hint)
            end

            local function try_all()
                try("connect", options_of("h1"))
                try("http2", options_of("h2"))
                local named = options_of("h1")
                named.host = "localhost"
                try("name", named)
                local files = options_of("h1")
                files.ssl_cert, files.ssl_key = nil, nil
                files.ssl_cert_path = "${cert.client-b.crt}"
                files.ssl_key_path = "${cert.client-b.key}"
                try("files", files)
                local system = options_of("h1")
                system.ssl_trusted_certificate = nil
                try("system", system)
            end

            -- The thread starts with the first call.
            local taken = take_descriptors(0)
            try("first", options_of("h1"))
            give_back(taken)
            assert(http.new():connect(options_of("h1")))
            taken = take_descriptors(0)
            try_all()
            give_back(taken)
            try("first", options_of("h1"))
            try_all()
        ]]))
    end)

    it("or with a few, requests on kept connections are answered", function()
        -- A wake socket takes three: its listener, and both ends.
        assert.equals("0\t20\n1\t20\n2\t20\n3\t20\n4\t20\n0\t0\n", run([[
            local options, clients = options_of("h1"), {}
            each(20, 20, function(i) clients[i] = connected(options) end)
            for left = 0, 4 do
                no_dispatcher()
                local taken = take_descriptors(left)
                local good = 0
                each(20, 20, function(i)
                    assert(ask(clients[i], "/echo"):find("CN=client-a", 1, true))
                    good = good + 1
                end)
                give_back(taken)
                print(left, good)
            end
            each(20, 20, function(i) clients[i]:close() end)
            print(stats().operations_in_flight, stats().connections_open)
        ]]))
    end)

    it("requests of which only some could get one fail or are answered, none is lost", function()
        assert.equals("30\t270\t0\t30\ntrue\n", run([[
            -- Nobody lets go of one meanwhile: each answered one keeps its connection, and the
            -- dispatcher is there.
            local options, kept = options_of("h1"), {}
            local first = connected(options)
            local waiting = ngx.thread.spawn(ask, first, "/held?id=0")
            assert(are_held(1))
            local taken = take_descriptors(30)
            local good, bad = 0, 0
            each(300, 300, function()
                local httpc = http.new()
                local ok, err, details = httpc:connect(options)
                if ok then
                    kept[#kept + 1] = httpc
                    good = good + 1
                else
                    assert(details.code == "connect_failed", err)
                    bad = bad + 1
                end
            end)
            print(good, bad, stats().operations_in_flight - 1, stats().connections_open - 1)
            give_back(taken)
            control("/release")
            assert(ngx.thread.wait(waiting))
            each(#kept, 30, function(i)
                assert(ask(kept[i], "/echo"))
                kept[i]:close()
            end)
            first:close()
            print(wait_until(function()
                return stats().operations_in_flight == 0 and stats().connections_open == 0
            end))
        ]]))
    end)

    it("the process does not spin, be it with requests in flight or without", function()
        local seen = figures(run([[
            local options, clients, threads = options_of("h1"), {}, {}
            each(200, 32, function(i) clients[i] = connected(options) end)
            local first = wake_number(clients[1])
            no_dispatcher()
            local line = assert(ngx.socket.tcp())
            assert(line:connect("127.0.0.1", ${control}))
            local usage = usage_counter()
            local taken = take_descriptors(0)
            ngx.update_time()
            local started = ngx.now()
            for i = 1, 200 do
                threads[i] = ngx.thread.spawn(ask, clients[i], "/held?id=" .. i)
            end
            ngx.sleep(1)
            assert(line:send("GET /release HTTP/1.0\r\n\r\n"))
            print("released=" .. line:receive("*a"):match("(%d+)$"))
            for i = 1, 200 do
                local _, body = assert(ngx.thread.wait(threads[i]))
                assert(body == tostring(i), body)
            end
            ngx.update_time()
            local seconds = ngx.now() - started
            no_dispatcher()
            local before = usage()
            ngx.sleep(1)
            print("idle=" .. usage() - before)
            give_back(taken)
            -- Each try is one number for each of the places that it tries.
            local tries = (wake_number(clients[1]) - first) / places_of_wake_sockets()
            print("tries=" .. tries, "bound=" .. seconds / 0.1 + 3)
        ]]))
        assert.equals(200, seen.released)
        assert.is_true(seen.tries <= seen.bound, seen.tries .. " tries to have a wake socket")
        -- Of 100 that a busy thread would have used in that time.
        assert.is_true(seen.idle < 50, seen.idle .. " ticks of CPU with nothing to do")
    end)

    it("a new identity is read as soon as there is one again", function()
        local output = run([[
            local fs = require("spec.support.fs")
            local folder = ngx.config.prefix()
            local pem = {
                a = { crt = ${pem.client-a.crt}, key = ${pem.client-a.key} },
                b = { crt = ${pem.client-b.crt}, key = ${pem.client-b.key} },
            }
            local function put(name)
                fs.write(folder .. "tls.crt", pem[name].crt)
                fs.write(folder .. "tls.key", pem[name].key)
            end
            put("a")
            local options = options_of("h1")
            options.ssl_cert, options.ssl_key = nil, nil
            options.ssl_cert_path, options.ssl_key_path = folder .. "tls.crt", folder .. "tls.key"

            local function who()
                local httpc = http.new()
                assert(httpc:connect(options))
                local name = ask(httpc, "/echo"):match("CN=(client%-%a)")
                assert(httpc:set_keepalive(600000))
                return name
            end
            print(who())
            local log = io.open(folder .. "error.log")
            put("b")
            local taken = take_descriptors(0)
            -- The sweeper has files looked at each second.
            print(wait_until(function()
                assert(who() == "client-a")
                log:seek("set", 0)
                return log:read("*a"):find("changed and cannot be used", 1, true)
            end))
            give_back(taken)
            -- And not a minute later.
            patience = 15
            print(wait_until(function() return who() == "client-b" end))
        ]])
        assert.equals("client-a\ntrue\ntrue\n", output)
        local _, times = gateway:error_log():gsub("changed and cannot be used", "")
        assert.equals(1, times)
    end)
end)


describe("without a timer for the dispatcher", function()
    it("200 requests in flight share one wake socket", function()
        local servers = scale.start({ connections = 1024 })
        finally(function() servers:kill() end)
        local gateway = nginx.gateway({
            http = "lua_max_running_timers 1;", connections = 1024, vars = servers.vars,
        })
        finally(function() gateway.process:kill() end)
        assert.equals("true\n200\ttrue\n", gateway:run(scale.TOOLS .. [[
            local options, clients, threads = options_of("h1"), {}, {}
            each(200, 32, function(i) clients[i] = connected(options) end)
            assert(wait_until(function() return ngx.timer.running_count() == 0 end))
            assert(ngx.timer.at(0, function(premature)
                while not ngx.worker.exiting() and not premature do
                    ngx.sleep(0.01)
                end
            end))
            assert(wait_until(function() return ngx.timer.running_count() == 1 end))
            for i = 1, 200 do
                threads[i] = ngx.thread.spawn(ask, clients[i], "/held?id=" .. i)
            end
            assert(are_held(200))
            -- Longer than each waits for a dispatcher.
            ngx.sleep(0.5)
            local _, sockets = io.open("/proc/net/unix"):read("*a"):gsub(
                "resty%-mtls%-" .. ngx.worker.pid() .. "%-", "")
            print(sockets >= 1 and sockets <= 3)
            control("/release")
            local good = 0
            for i = 1, 200 do
                local _, body = ngx.thread.wait(threads[i])
                good = good + (body == tostring(i) and 1 or 0)
            end
            print(good, wait_until(function() return stats().operations_in_flight == 0 end))
        ]], { vars = servers.vars, timeout = 40 }))
        gateway:stop()
        servers:stop()
    end)
end)
