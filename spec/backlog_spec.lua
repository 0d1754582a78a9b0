local backlog = require("spec.support.backlog")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")

local upstream, gateway


before_each(function()
    upstream = backlog.upstream()
    gateway = nginx.gateway()
end)

after_each(function()
    gateway:stop()
    upstream:stop()
end)


local function run(chunk)
    return gateway:run(backlog.TOOLS .. chunk, {
        vars = { up = upstream.ports.plain, tls = upstream.port },
    })
end


describe("connect with pool_size and backlog", function()
    it("has at most pool_size connections at the upstream, and all get their turn", function()
        assert.equals("60\t3\t3\t57\n", run([[
            local done, most, threads = 0, 0, {}
            for i = 1, 60 do
                threads[i] = ngx.thread.spawn(function()
                    local httpc = assert(connect(3, 100))
                    most = math.max(most, tonumber(body(httpc, "/active")))
                    assert(httpc:set_keepalive())
                    done = done + 1
                end)
            end
            for i = 1, 60 do
                assert(ngx.thread.wait(threads[i]))
            end
            print(done, most, stats().connections_opened, stats().connections_reused)
        ]]))
    end)

    it("holds for request_uri too", function()
        assert.equals("30\t2\n", run([[
            local done, threads = 0, {}
            for i = 1, 30 do
                threads[i] = ngx.thread.spawn(function()
                    local given = options(2, 100)
                    local res = assert(client():request_uri("http://localhost:${up}/active", given))
                    assert(tonumber(res.body) <= 2)
                    done = done + 1
                end)
            end
            for i = 1, 30 do
                assert(ngx.thread.wait(threads[i]))
            end
            print(done, stats().connections_opened)
        ]]))
    end)

    it("gives a waiting light thread the connection that is returned", function()
        assert.equals("1\t1\n", run([[
            local first = assert(connect(1, 1))
            local waiter = connecting(1, 1)
            assert(waiting(1))
            body(first, "/echo")
            assert(first:set_keepalive() == 1)
            local _, second = ngx.thread.wait(waiter)
            print(second:get_reused_times(), stats().connections_opened)
        ]]))
    end)

    it("serves those who wait in their order", function()
        assert.equals("123\n", run([[
            local first, order, threads = assert(connect(1, 3)), "", {}
            for i = 1, 3 do
                threads[i] = ngx.thread.spawn(function()
                    local httpc = assert(connect(1, 3))
                    order = order .. i
                    body(httpc, "/echo")
                    httpc:set_keepalive()
                end)
                assert(waiting(i))
            end
            body(first, "/echo")
            first:set_keepalive()
            for i = 1, 3 do
                ngx.thread.wait(threads[i])
            end
            print(order)
        ]]))
    end)

    it("refuses more than backlog who wait", function()
        assert.equals("too many waiting connect operations\ttoo_many_waiting\tconnect\ttrue\n"
                      .. "1\t1\n", run([[
            local first = assert(connect(1, 2))
            local waiters = { connecting(1, 2), connecting(1, 2) }
            assert(waiting(2))
            local _, err, details = connect(1, 2)
            print(err, details.code, details.stage, type(details.hint) == "string")
            -- It has not disturbed those who wait.
            first:close()
            local _, second = ngx.thread.wait(waiters[1])
            assert(second):close()
            _, second = ngx.thread.wait(waiters[2])
            assert(second):close()
            -- All places are free again.
            first = assert(connect(1, 2))
            waiters = { connecting(1, 2), connecting(1, 2) }
            assert(waiting(2))
            print(first:close(), assert(select(2, ngx.thread.wait(waiters[1]))):close())
        ]]))
    end)

    it("lets nobody wait with a backlog of 0", function()
        assert.equals("too many waiting connect operations\n1\n", run([[
            local first = assert(connect(1, 0))
            print((select(2, connect(1, 0))))
            first:close()
            print(assert(connect(1, 0)):close())
        ]]))
    end)

    it("waits no longer than the connect timeout", function()
        assert.equals("timeout\tconnect_timeout\tconnect\ttrue\n1\n", run([[
            local first = assert(connect(1, 1))
            local started = ngx.now()
            local httpc = client()
            httpc:set_timeouts(150, 10000, 10000)
            local _, err, details = httpc:connect(options(1, 1))
            ngx.update_time()
            local seconds = ngx.now() - started
            print(err, details.code, details.stage, seconds > 0.1 and seconds < 5)
            -- The place in the queue is free again.
            local waiter = connecting(1, 1)
            assert(waiting(1))
            first:close()
            local _, second = ngx.thread.wait(waiter)
            print(second:close())
        ]]))
    end)

    it("waits no longer than a deadline", function()
        assert.equals("timeout\tconnect_timeout\n", run([[
            local first = assert(connect(1, 1))
            local given = options(1, 1)
            given.deadline = 150
            local _, err, details = client():request_uri("http://localhost:${up}/echo", given)
            print(err, details.code)
            first:close()
        ]]))
    end)

    it("does not bound those who give no backlog", function()
        assert.equals("true\t3\n", run([[
            local first = assert(connect(1, 0))
            local others = { connect(1), connect() }
            print(#others == 2, stats().connections_open)
        ]]))
    end)

    it("bounds each destination by itself", function()
        assert.equals("4\n", run([[
            local all = { assert(connect(1, 0)) }
            host = "127.0.0.1"
            all[2] = assert(connect(1, 0))
            local named = options(1, 0)
            named.pool = "mine"
            all[3] = client()
            assert(all[3]:connect(named))
            all[4] = client()
            assert(all[4]:connect(identified{ scheme = "https", host = "localhost", port = ${tls},
                                              pool_size = 1, backlog = 0 }))
            print(stats().connections_open)
        ]]))
    end)

    it("takes options that make no sense for a mistake", function()
        for _, given in ipairs({ "1, -1", "0, 1", "-1, 0" }) do
            assert.equals("bad_argument\n", run("print(select(3, connect(" .. given .. ")).code)"))
        end
    end)
end)


describe("a bounded connection that turns out dead", function()
    it("keeps its place for the one that replaces it", function()
        local head = peer.receive_until("\r\n\r\n")
        local answer = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        local server = peer.start({ scripts = { { head, answer, head },
                                                { head, answer, peer.receive_to_end() } } })
        assert.equals("1\ttoo many waiting connect operations\n1\n", gateway:run(backlog.TOOLS .. [[
            local first = assert(connect(1, 0))
            body(first, "/")
            assert(first:set_keepalive() == 1)
            first = assert(connect(1, 0))
            body(first, "/")
            print(stats().retries, (select(2, connect(1, 0))))
            first:close()
            print(assert(connect(1, 0)):close())
        ]], { vars = { up = server.port } }))
        server:stop()
    end)
end)


describe("a bounded connection in the old form", function()
    it("keeps its place when the handshake finds one in the pool", function()
        assert.equals("1\ttoo many waiting connect operations\n1\n", run([[
            local given = { pool_size = 1, backlog = 0 }
            local identity = {
                server_name = "localhost", trusted_certificate = ${pem.ca.crt},
                client_cert = ${pem.client-a.crt}, client_priv_key = ${pem.client-a.key},
            }
            local function connect_tls()
                local httpc = client()
                local ok, err = httpc:connect("localhost", ${tls}, given)
                if not ok then
                    return nil, err
                end
                assert(httpc:tls_handshake(identity))
                return httpc
            end

            local first = assert(connect_tls())
            body(first, "/echo")
            assert(first:set_keepalive() == 1)
            first = assert(connect_tls())
            print(first:get_reused_times(), (select(2, connect_tls())))
            first:close()
            print(assert(connect_tls()):close())
        ]]))
    end)
end)
