local backlog = require("spec.support.backlog")
local nginx = require("spec.support.nginx")

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


describe("a place among the connections in use is free again", function()
    -- What frees it, done to `first`.
    for how, chunk in pairs({
        ["close"] = "first:close()",
        ["close during a request"] = [[
            local busy = ngx.thread.spawn(body, first, "/silent")
            assert(waiting(2))
            first:close()
        ]],
        ["set_keepalive"] = "body(first, '/echo') assert(first:set_keepalive() == 1)",
        ["set_keepalive on a connection that the server closes"] = [[
            body(first, "/close")
            assert(first:set_keepalive() == 2)
        ]],
        ["set_keepalive with an unread body"] = [[
            assert(first:request({ path = "/bytes?n=10000000" }))
            assert(not first:set_keepalive())
        ]],
        ["a response after which the client is to close"] = [[
            first.keepalive = false
            assert(first:set_keepalive() == 2)
        ]],
        ["a request that failed"] = [[
            first:set_timeouts(10000, 10000, 50)
            assert(not first:request({ path = "/silent" }))
        ]],
        ["another connect of the same client"] = [[
            assert(first:connect({ scheme = "http", host = "127.0.0.1", port = ${up} }))
        ]],
        ["the collector, from an abandoned client"] = [[
            first = nil
            collectgarbage()
            collectgarbage()
        ]],
        ["the collector, from an abandoned response"] = [[
            assert(first:request({ path = "/bytes?n=10000000" }))
            first = nil
            collectgarbage()
            collectgarbage()
        ]],
    }) do
        it("after " .. how, function()
            assert.equals("true\t1\n", run([[
                local first = assert(connect(1, 1))
                local waiter = connecting(1, 1)
                assert(waiting(1))
                assert(not connect(1, 1))
            ]] .. chunk .. [[
                local _, second = ngx.thread.wait(waiter)
                print(second ~= nil, assert(second):close())
            ]]))
        end)
    end

    -- A light thread that is killed while it does that with the only connection.
    for what, chunk in pairs({
        ["waits for a response"] = "body(assert(connect(1, 1)), '/silent')",
        ["sleeps with it"] = "local httpc = assert(connect(1, 1)) ngx.sleep(20) httpc:close()",
        ["reads a body"] = "body(assert(connect(1, 1)), '/unfinished')",
    }) do
        it("after the kill of a light thread that " .. what, function()
            assert.equals("true\n", run([[
                local victim = ngx.thread.spawn(function() ]] .. chunk .. [[ end)
                assert(wait_until(function() return stats().connections_open == 1 end))
                local waiter = connecting(1, 1)
                assert(wait_until(function() return stats().operations_in_flight >= 1 end))
                assert(not connect(1, 1))
                ngx.thread.kill(victim)
                victim = nil
                collectgarbage()
                collectgarbage()
                local _, second = ngx.thread.wait(waiter)
                print(second:close() == 1)
            ]]))
        end)
    end

    it("after the kill of a light thread that waits, also in the queue", function()
        assert.equals("true\t1\n", run([[
            local first = assert(connect(1, 1))
            local victim = connecting(1, 1)
            assert(waiting(1))
            ngx.thread.kill(victim)
            victim = nil
            assert(wait_until(function()
                collectgarbage()
                return stats().operations_in_flight == 0
            end))
            local waiter = connecting(1, 1)
            assert(waiting(1))
            assert(not connect(1, 1))
            first:close()
            local _, second = ngx.thread.wait(waiter)
            print(second ~= nil, second:close())
        ]]))
    end)

    it("after a connection that could not be made", function()
        assert.equals("connect_refused\nconnect_refused\nconnect_refused\n", run([[
            for _ = 1, 3 do
                local _, _, details = client():connect({
                    scheme = "http", host = "127.0.0.1", port = 1, pool_size = 1, backlog = 0,
                })
                print(details.code)
            end
        ]]))
    end)

    it("after the end of the request that used it", function()
        for _ = 1, 3 do
            gateway:begin(backlog.TOOLS .. [[
                ngx.thread.spawn(function() body(assert(connect(1, 0)), "/silent") end)
                assert(wait_until(function() return stats().connections_open == 1 end))
                ngx.exit(204)
            ]], { vars = { up = upstream.ports.plain } }).exchange:receive()
            assert.equals("true\n", run([[
                print(wait_until(function()
                    collectgarbage()
                    local httpc = connect(1, 0)
                    return httpc and httpc:close()
                end))
            ]]))
        end
    end)
end)
