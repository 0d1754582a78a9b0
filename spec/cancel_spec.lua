local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local prelude = require("spec.support.prelude")


local server, gateway

-- A light thread that is stopped has left nothing when this is true.
local TOOLS = prelude .. [[
    local function nothing_left()
        collectgarbage()
        local counters = stats()
        return counters.operations_in_flight == 0
            and counters.connections_open == counters.connections_idle
    end

    local function open_fds()
        local count = 0
        for _ in require("lfs").dir("/proc/" .. ngx.worker.pid() .. "/fd") do
            count = count + 1
        end
        return count
    end
]]


setup(function()
    server = nginx.upstream()
    gateway = nginx.gateway({ server = [[
        location = /abort {
            lua_check_client_abort on;
            content_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
        }
    ]] })
end)

teardown(function()
    gateway:stop()
    server:stop()
end)


local function run(chunk, vars)
    local given = { up = server.port, plain = server.ports.plain }
    for name, value in pairs(vars or {}) do
        given[name] = value
    end
    return gateway:run(TOOLS .. chunk, { vars = given })
end


local function assert_all_good()
    assert.equals("true\tslow\n", run([[
        print(wait_until(nothing_left), get("/slow?s=0.01"))
    ]]))
    for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
        assert.is_nil(gateway:error_log():match("[^\n]*%[" .. level .. "%][^\n]*"))
    end
end


describe("a light thread that is killed", function()
    -- Kills it when the peer has reached the point that the script hangs at.
    local function kill_in(script, work, tls)
        local hanging = peer.start({ script = script, tls = tls })
        local output = run([[
            local thread = ngx.thread.spawn(function() ]] .. work .. [[ end)
            local size = require("lfs").attributes
            assert(wait_until(function()
                return (size("${peer_dir}/received-1", "size") or 0) > 0
            end))
            -- What the peer answers is under way.
            ngx.sleep(0.02)
            assert(stats().operations_in_flight == 1)
            print(ngx.thread.kill(thread))
            thread = nil
            print(wait_until(nothing_left))
        ]], { port = hanging.port, peer_dir = hanging.dir })
        assert.equals("1\ntrue\n", output)
        -- The other side sees the end as well.
        hanging:wait_for_event("read: ")
        hanging:stop()
        assert_all_good()
    end

    local CONNECT = [[
        local httpc = http.new()
        assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                         port = ${port} }))
    ]]
    local HEAD = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"

    it("in a handshake leaves nothing", function()
        -- A server that has taken the client's hello and says nothing.
        kill_in({ peer.receive(1), peer.receive_to_end() }, CONNECT)
    end)

    it("waiting for a response leaves nothing", function()
        kill_in({ peer.receive_until("\r\n\r\n"), peer.receive_to_end() },
                CONNECT .. "httpc:request({ path = '/' })", {})
    end)

    it("in the middle of a response head leaves nothing", function()
        kill_in({ peer.receive_until("\r\n\r\n"), peer.send("HTTP/1.1 200 "),
                  peer.receive_to_end() },
                CONNECT .. "httpc:request({ path = '/' })", {})
    end)

    it("reading a body leaves nothing", function()
        kill_in({ peer.receive_until("\r\n\r\n"), peer.send(HEAD .. "some"),
                  peer.receive_to_end() },
                CONNECT .. "httpc:request({ path = '/' }):read_body()", {})
    end)

    it("reading a part of a body leaves nothing", function()
        kill_in({ peer.receive_until("\r\n\r\n"), peer.send(HEAD .. "some"),
                  peer.receive_to_end() },
                CONNECT .. [[
                    local res = httpc:request({ path = '/' })
                    assert(res.body_reader(4) == "some")
                    res.body_reader(4)
                ]], {})
    end)

    it("sending a body that nobody reads leaves nothing", function()
        -- What the peer has not read makes its kernel answer with a reset.
        kill_in({ peer.receive_until("\r\n\r\n"), peer.sleep(0.3), peer.receive_to_end() },
                CONNECT .. [[
                    httpc:request({ method = "PUT", path = "/", body = ("x"):rep(20000000) })
                ]], {})
    end)

    it("looking a name up leaves nothing", function()
        assert.equals("1\ttrue\n", run([[
            local thread = ngx.thread.spawn(function()
                http.new():connect({ scheme = "http", host = "no.such.name.invalid" })
            end)
            print(ngx.thread.kill(thread), wait_until(nothing_left))
        ]]))
        assert_all_good()
    end)

    it("does not disturb the others, 200 times", function()
        assert.equals("200\ttrue\n", run([[
            local good = 0
            for i = 1, 200 do
                local victim = ngx.thread.spawn(get, "/slow?s=0.2")
                local other = ngx.thread.spawn(get, "/bytes?n=" .. i)
                if i % 3 > 0 then
                    ngx.sleep(0.001 * (i % 7))
                end
                ngx.thread.kill(victim)
                local _, body = ngx.thread.wait(other)
                good = good + (body and #body == i and 1 or 0)
            end
            print(good, wait_until(nothing_left))
        ]]))
        assert_all_good()
    end)

    it("does not keep the dispatcher alive", function()
        assert.equals("true\n", run([[
            local thread = ngx.thread.spawn(get, "/slow?s=5")
            assert(wait_until(function() return ngx.timer.running_count() == 1 end))
            ngx.thread.kill(thread)
            thread = nil
            print(wait_until(function()
                collectgarbage()
                return ngx.timer.running_count() == 0
            end))
        ]]))
    end)

    it("leaves no socket behind", function()
        assert.matches("^true\t", run([[
            get("/slow?s=0", { keepalive = false })
            assert(wait_until(function()
                return nothing_left() and ngx.timer.running_count() == 0
            end))
            local before = open_fds()
            for _ = 1, 50 do
                local thread = ngx.thread.spawn(get, "/slow?s=1")
                ngx.sleep(0.004)
                ngx.thread.kill(thread)
            end
            print(wait_until(function() return nothing_left() and open_fds() <= before end),
                  before, open_fds())
        ]]))
    end)
end)


describe("a request to nginx that ends early", function()
    it("with ngx.exit leaves nothing of its requests", function()
        for _ = 1, 5 do
            gateway:begin(TOOLS .. [[
                ngx.thread.spawn(get, "/slow?s=3")
                ngx.thread.spawn(get, "/slow?s=3")
                ngx.sleep(0.01)
                ngx.exit(204)
            ]], { vars = { up = server.port } }).exchange:receive()
        end
        assert_all_good()
    end)

    it("since the client has gone leaves nothing of its requests", function()
        local runs = {}
        for i = 1, 5 do
            runs[i] = gateway:begin(TOOLS .. "get('/slow?s=3')",
                                    { phase = "../abort", vars = { up = server.port } })
        end
        assert.equals("true\n", run([[
            print(wait_until(function() return stats().operations_in_flight >= 5 end))
        ]]))
        for i = 1, 5 do
            runs[i]:abort()
        end
        assert_all_good()
        for i = 1, 5 do
            assert.is_false(runs[i]:is_done())
        end
    end)

    it("since the client has gone is finished without lua_check_client_abort", function()
        local one = gateway:begin(TOOLS .. "print(get('/slow?s=0.2'))",
                                  { vars = { up = server.port } })
        assert.equals("true\n", run([[
            print(wait_until(function() return stats().operations_in_flight >= 1 end))
        ]]))
        one:abort()
        assert.equals("slow\n", one:wait())
        assert_all_good()
    end)
end)


describe("ngx.thread.wait", function()
    it("returns with the first of two requests", function()
        assert.equals("true\t3\ntrue\tslow\n", run([[
            local slow = ngx.thread.spawn(get, "/slow?s=0.3")
            local quick = ngx.thread.spawn(get, "/bytes?n=3")
            local ok, body = ngx.thread.wait(slow, quick)
            print(ok, #body)
            print(ngx.thread.wait(slow))
        ]]))
        assert_all_good()
    end)
end)


describe("a client that is dropped in the middle", function()
    it("is collected with its connection", function()
        assert.equals("true\n", run([[
            for i = 1, 50 do
                local httpc = http.new()
                assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                                 port = ${up} }))
                if i % 3 == 1 then
                    assert(httpc:send_request({ path = "/slow?s=3" }))
                elseif i % 3 == 2 then
                    assert(httpc:request({ path = "/bytes?n=10000000" }))
                end
            end
            print(wait_until(nothing_left))
        ]]))
        assert_all_good()
    end)
end)
