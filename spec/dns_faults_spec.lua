-- Name servers that hang, fail, are slow or change their mind. A real one, dnsmasq, and a stand-in
-- for what a real one does not do.
local dns = require("spec.support.dns")
local nginx = require("spec.support.nginx")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

-- No spec takes so long: who waits for a hanging look-up is stuck.
local FOREVER = 30

local missing = dns.missing()
local upstream, tried = nil, 0


-- Like `it`, where there can be name servers.
local function it_with_dns(title, run)
    it(title, function()
        if missing then
            pending(missing)
            return
        end
        run()
    end)
end


-- The C library prefers addresses that have much in common with 127.0.0.1, from which it would be
-- connected to. This one is tried behind those.
setup(function()
    upstream = nginx.upstream({ verify = "off", server = "listen 127.99.0.1:${port.plain};" })
end)

teardown(function()
    upstream:stop()
    io.stdout:write("faults tried: ", tried, "\n")
end)


local TOOLS = [[
    local http = require("resty.mtls.http")

    -- A new client with a connection, or nil and what went wrong, with its step.
    local function connect(host, options)
        options = options or {}
        options.scheme, options.host = options.scheme or "http", host
        options.port = options.port or ${up}
        local httpc = http.new()
        httpc:set_timeouts(options.patience or 20000, 20000, 20000)
        local ok, err, details = httpc:connect(options)
        if ok then
            return httpc
        end
        return nil, details.code .. " " .. details.stage, err
    end

    -- "200", or what went wrong.
    local function visit(host, options)
        local httpc, err = connect(host, options)
        if not httpc then
            return err
        end
        local res = assert(httpc:request({ path = "/echo", headers = { Host = "localhost" } }))
        assert(res:read_body())
        httpc:close()
        return tostring(res.status)
    end

    local function each(names, options)
        local threads, seen = {}, {}
        for i, name in ipairs(names) do
            threads[i] = ngx.thread.spawn(function()
                local own = {}
                for key, value in pairs(options or {}) do
                    own[key] = value
                end
                seen[i] = visit(name, own)
            end)
        end
        return function()
            for i = 1, #threads do
                assert(ngx.thread.wait(threads[i]))
            end
            return seen
        end
    end

    local function times(count, make)
        local list = {}
        for i = 1, count do
            list[i] = type(make) == "function" and make(i) or make
        end
        return list
    end

    local function all_are(seen, expected)
        for i = 1, #seen do
            assert(seen[i] == expected, i .. ": " .. seen[i])
        end
        return #seen
    end

    local function wait_until(condition)
        for _ = 1, 2000 do
            if condition() then
                return true
            end
            ngx.sleep(0.005)
        end
        return false
    end

    local function threads_of_process()
        local status = io.open("/proc/self/status"):read("*a")
        return tonumber(status:match("Threads:%s*(%d+)"))
    end

    local function are_in_flight(count)
        return wait_until(function() return http.stats().operations_in_flight == count end)
    end

    local function is_settled()
        return wait_until(function()
            collectgarbage()
            local now = http.stats()
            return now.operations_in_flight + now.requests_in_flight + now.connections_open == 0
        end)
    end
]]


-- What a spec has started. Port 53 is for one server at a time, and those who wait for a hanging
-- look-up need not be waited for.
local running = {}


local function until_the_end(started)
    running[#running + 1] = started
    return started
end


after_each(function()
    for i, started in ipairs(running) do
        started.process:kill()
        running[i] = nil
    end
end)


local function gateway_asking(server, seconds)
    return until_the_end(nginx.gateway({ through = dns.asking(server, seconds) }))
end


local function begin(gateway, chunk, vars)
    local all = { up = upstream.ports.plain, tls = upstream.port, socket = upstream.plain_socket }
    for name, value in pairs(vars or {}) do
        all[name] = value
    end
    return gateway:begin(TOOLS .. chunk, { vars = all })
end


local function run(gateway, chunk, vars)
    return begin(gateway, chunk, vars):wait()
end


describe("a name server that answers", function()
    it_with_dns("with nothing to go by gives dns_failed, whatever it says", function()
        local server = until_the_end(dns.stand_in())
        local gateway = gateway_asking(server, 1)
        assert.equals("11\ttrue\n", run(gateway, [[
            local names = { "nx.test", "servfail.test", "refused.test", "empty.test",
                            "garbage.test", "cut.test", "otherid.test", "othername.test",
                            "truncated.test", "loop.test", "silent.test" }
            print(all_are(each(names)(), "dns_failed resolve"), is_settled())
        ]]))
        tried = tried + 11
        gateway:stop()
    end)

    it_with_dns("late, or only when asked again, is waited for", function()
        local server = until_the_end(dns.stand_in())
        local gateway = gateway_asking(server, FOREVER)
        assert.equals("200\t200\ttrue\n", run(gateway, [[
            print(visit("slow.test"), visit("lost.test"), is_settled())
        ]]))
        assert.same({ 1, 2 }, { server:asked("slow.test"), server:asked("lost.test") })
        tried = tried + 2
    end)

    it_with_dns("with dead addresses too leads to the one that is not", function()
        local server = until_the_end(dns.stand_in())
        local gateway = gateway_asking(server)
        assert.equals("200\tconnect_refused connect\ttrue\n", run(gateway, [[
            print(visit("partly.test"), visit("dead.test"), is_settled())
        ]]))
        tried = tried + 2
        gateway:stop()
    end)
end)


describe("a look-up that hangs", function()
    local server, gateway

    before_each(function()
        if not missing then
            server = until_the_end(dns.stand_in())
            gateway = gateway_asking(server, FOREVER)
        end
    end)

    it_with_dns("ends in time for each of many calls, and all others go on meanwhile", function()
        assert.equals("50\t100\n100\t100\ttrue\n", run(gateway, [[
            assert(visit("known.test") == "200")
            local patient = each(times(100, "hang.test"), { patience = 60000 })
            assert(are_in_flight(100))
            local passed = 0
            for i = 1, 10 do
                passed = passed + all_are({
                    visit("127.0.0.1"), visit("known.test"), visit("good-" .. i .. ".test"),
                    visit("unix:${socket}"),
                    -- Files are read on threads as well, once for each list of them.
                    visit("127.0.0.1", { scheme = "https", port = ${tls},
                        ssl_trusted_certificate = times(i, "${cert.ca.crt}") }),
                }, "200")
            end
            print(passed, http.stats().operations_in_flight)

            local hasty = each(times(100, "hang.test"), { patience = 300 })
            local failed = all_are(hasty(), "connect_timeout connect")
            io.open("${released}", "w"):close()
            print(failed, all_are(patient(), "200"), is_settled())
        ]], { released = server.dir .. "/released" }))
        -- One look-up for all of them, and maybe another one a second later.
        assert.is_true(server:asked("hang.test") <= 2, server:asked("hang.test"))
        tried = tried + 100
    end)

    it_with_dns("is forgotten when its callers are killed or out of time", function()
        assert.equals("20\ttimeout connect_timeout\ttrue\n", run(gateway, [[
            local threads = {}
            for i = 1, 20 do
                threads[i] = ngx.thread.spawn(visit, "hang-" .. i .. ".test")
            end
            assert(are_in_flight(20))
            local killed = 0
            for i = 1, 20 do
                killed = killed + (ngx.thread.kill(threads[i]) and 1 or 0)
            end
            threads = nil
            local _, err, details = http.new():request_uri("http://hang.test:${up}/echo",
                                                           { deadline = 300 })
            print(killed, err .. " " .. details.code, is_settled())
        ]]))
        tried = tried + 21
    end)

    it_with_dns("of many names takes a few threads, and all is well when it ends", function()
        assert.equals("30\t60\ttrue\n60\t60\ttrue\n", run(gateway, [[
            local names = times(60, function(i) return "hang-" .. i .. ".test" end)
            assert(visit("known.test") == "200")
            local before = threads_of_process()
            local patient = each(names, { patience = 60000 })
            assert(are_in_flight(60))
            local passed, most = 0, 0
            for i = 1, 10 do
                passed = passed + all_are({
                    visit("127.0.0.1"), visit("known.test"),
                    visit("127.0.0.1", { scheme = "https", port = ${tls},
                        ssl_trusted_certificate = times(i, "${cert.ca.crt}") }),
                }, "200")
                most = math.max(most, threads_of_process())
            end
            print(passed, http.stats().operations_in_flight,
                  most > before and most <= before + 16 or most - before)

            local failed = all_are(each(names, { patience = 300 })(), "connect_timeout connect")
            io.open("${released}", "w"):close()
            print(failed, all_are(patient(), "200"), is_settled())
        ]], { released = server.dir .. "/released" }))
        tried = tried + 60
    end)

    it_with_dns("does not keep a worker from exiting", function()
        local calls = begin(gateway, [[
            local names = times(20, function(i) return "hang-" .. i .. ".test" end)
            local finish = each(names, { patience = 500 })
            assert(are_in_flight(20))
            ngx.log(ngx.NOTICE, "all of them hang")
            print(all_are(finish(), "connect_timeout connect"))
        ]])
        gateway:wait_for_log("all of them hang")
        gateway:quit()
        assert.equals("20\n", calls:wait())
        assert.equals(0, gateway.process:wait())

        -- Nor if nobody has given up yet.
        gateway = gateway_asking(server, FOREVER)
        begin(gateway, [[
            local finish = each(times(20, "hang.test"))
            assert(are_in_flight(20))
            ngx.log(ngx.NOTICE, "all of them hang")
            finish()
        ]])
        gateway:wait_for_log("all of them hang")
        gateway.process:signal("TERM")
        assert.equals(0, gateway.process:wait())
        tried = tried + 40
    end)
end)


describe("dnsmasq", function()
    it_with_dns("that stops, dies and comes back is an error meanwhile", function()
        -- As many addresses as need an answer by TCP, all but the last of them dead.
        local many = { "127.99.0.1" }
        for i = 1, 59 do
            many[#many + 1] = "127.0.9." .. i
        end
        local server = until_the_end(dns.dnsmasq({ ["origin.test"] = { "127.0.0.1" },
                                                   ["many.test"] = many,
                                                   ["both.test"] = { "::1", "127.99.0.1" } }))
        local gateway = gateway_asking(server, FOREVER)
        local ALL = [[
            http.set_defaults({ dns_cache_time = 0 })
            print(visit("origin.test"), visit("many.test"), visit("both.test"),
                  visit("nowhere.test"), is_settled())
        ]]
        local good = "200\t200\t200\tdns_failed resolve\ttrue\n"
        assert.equals(good, run(gateway, ALL))

        server.process:signal("STOP")
        assert.equals("40\t200\ttrue\n", run(gateway, [[
            local finish = each(times(40, "origin.test"), { patience = 500 })
            assert(are_in_flight(40))
            local other = visit("127.0.0.1")
            print(all_are(finish(), "connect_timeout connect"), other, is_settled())
        ]]))
        server.process:signal("CONT")
        assert.equals(good, run(gateway, ALL))

        server:stop()
        assert.equals("40\ttrue\n", run(gateway, [[
            print(all_are(each(times(40, "origin.test"))(), "dns_failed resolve"), is_settled())
        ]]))
        server:restart()
        assert.equals(good, run(gateway, ALL))
        tried = tried + 80
        gateway:stop()
    end)

    it_with_dns("that changes its answer is followed by new connections, in time", function()
        local port = ports.free()
        local function place(address, text)
            return until_the_end(nginx.start({
                http = ("server { listen %s:%d; return 200 %s; }"):format(address, port, text),
            }))
        end
        local old, new = place("127.99.0.1", "old"), place("127.99.0.2", "new")
        local server = until_the_end(dns.dnsmasq({ ["moves.test"] = { "127.99.0.1" } }))
        local gateway = gateway_asking(server)
        local function ask(cache_time, keepalive)
            return run(gateway, [[
                http.set_defaults({ dns_cache_time = ${cache_time} })
                local res, err = http.new():request_uri("http://moves.test:${port}/",
                                                        { keepalive = ${keepalive} })
                print(res and res.body or err:match("connection refused"))
            ]], { port = port, cache_time = cache_time, keepalive = tostring(keepalive) })
        end

        assert.equals("old\n", ask(60000, false))
        server:change({ ["moves.test"] = { "127.99.0.2" } })
        -- The answer is used again for as long as that, also if the place is gone.
        assert.equals("old\n", ask(60000, true))
        old:stop()
        assert.equals("connection refused\n", ask(60000, false))
        assert.equals("new\n", ask(0, false))

        -- A connection goes on as long as it is kept, and not for longer.
        place("127.99.0.1", "old")
        assert.equals("new\n", ask(0, true))
        server:change({ ["moves.test"] = { "127.99.0.1" } })
        assert.equals("new\n", ask(0, true))
        new:stop()
        assert.equals("old\n", ask(100, false))

        place("127.99.0.2", "new")
        server:change({ ["moves.test"] = { "127.99.0.2" } })
        process.wait_until("the answer has been forgotten", function()
            return ask(100, false) == "new\n"
        end)
        tried = tried + 4
        gateway:stop()
    end)
end)
