local groups = require("spec.support.groups")
local nginx = require("spec.support.nginx")
local posix = require("spec.support.posix")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local system = require("system")


local server, vars

local UPSTREAM = [[
    location /wait {
        content_by_lua_block {
            ngx.sleep(tonumber(ngx.var.arg_s))
            ngx.print("waited ", ngx.var.arg_id)
        }
    }
]]

local CALLS = [[
    location = /call {
        content_by_lua_block {
            ]] .. prelude .. [[
            local body, err = get("/wait?s=" .. ngx.var.arg_s .. "&id=" .. ngx.var.arg_id)
            ngx.print(body or err)
        }
    }
    location = /late {
        content_by_lua_block {
            ]] .. prelude .. [[
            ngx.log(ngx.NOTICE, "waits for the worker to exit")
            assert(wait_until(ngx.worker.exiting))
            local body, err = get("/wait?s=0&id=" .. ngx.var.arg_id)
            ngx.print(body or err)
        }
    }
    location = /calls {
        content_by_lua_block {
            ]] .. prelude .. [[
            local good = 0
            for id = 1, tonumber(ngx.var.arg_n) do
                local body, err = get("/wait?s=0.05&id=" .. id)
                good = good + (body == "waited " .. id and 1 or 0)
                if err then
                    ngx.log(ngx.ERR, err)
                end
            end
            ngx.print(good)
        }
    }
]]


setup(function()
    server = nginx.upstream({ server = UPSTREAM })
    vars = { up = server.port }
end)

teardown(function() server:stop() end)


local function start(opts)
    opts = opts or {}
    return nginx.gateway({ server = CALLS, vars = vars, workers = opts.workers,
                           user = opts.user })
end


local function send_calls(gateway, first, last, seconds)
    local exchanges = {}
    for id = first, last do
        exchanges[id] = gateway:send("/call?s=" .. seconds .. "&id=" .. id)
    end
    return function()
        for id = first, last do
            local response = assert(exchanges[id]:receive())
            assert.equals("waited " .. id, response.body)
            assert.equals(200, response.status)
        end
    end
end


-- Until that many requests are under way.
local function wait_for_calls(gateway, count)
    gateway:run(prelude .. [[
        assert(wait_until(function() return stats().requests >= ]] .. count .. [[ end))
    ]], { vars = vars })
end


local function assert_clean(gateway)
    for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
        local line = gateway:error_log():match("[^\n]*%[" .. level .. "%][^\n]*")
        assert.is_nil(line)
    end
end


local function seconds_to_exit(gateway, signal)
    local started = system.monotime()
    gateway.process:signal(signal)
    assert.equals(0, gateway.process:wait())
    return system.monotime() - started
end


-- The machine may be busy with something else for a moment, but not each time.
local function fastest_exit(prepare)
    local fastest = math.huge
    for _ = 1, 3 do
        local gateway = start()
        prepare(gateway)
        fastest = math.min(fastest, seconds_to_exit(gateway, "QUIT"))
        assert_clean(gateway)
    end
    return fastest
end


describe("a worker that is told to quit", function()
    it("exits within 0.3 s when it is idle", function()
        local seconds = fastest_exit(function(gateway)
            assert.equals("waited 1", gateway:get("/call?s=0&id=1").body)
            gateway:run(prelude .. [[
                -- The dispatcher is a timer.
                assert(wait_until(function() return ngx.timer.running_count() == 0 end))
            ]], { vars = vars })
        end)
        assert.is_true(seconds <= 0.3, "it took " .. seconds .. " s")
    end)

    it("exits within 0.3 s right after a request", function()
        local seconds = fastest_exit(function(gateway)
            assert.equals("waited 1", gateway:get("/call?s=0&id=1").body)
        end)
        assert.is_true(seconds <= 0.3, "it took " .. seconds .. " s")
    end)

    it("exits within 0.3 s with idle connections in the pool", function()
        local seconds = fastest_exit(function(gateway)
            send_calls(gateway, 1, 20, 0.1)()
            local idle = gateway:run("return require('resty.mtls.http').stats().connections_idle")
            assert.is_true(tonumber(idle) >= 5, idle)
        end)
        assert.is_true(seconds <= 0.3, "it took " .. seconds .. " s")
    end)

    it("answers the requests in flight first", function()
        local gateway = start()
        local receive = send_calls(gateway, 1, 20, 0.5)
        wait_for_calls(gateway, 20)
        gateway:quit()
        receive()
        assert.equals(0, gateway.process:wait())
        assert_clean(gateway)
    end)

    it("begins further requests for those that it is answering", function()
        local gateway = start()
        local exchange = gateway:send("/calls?n=10")
        wait_for_calls(gateway, 2)
        gateway:quit()
        assert.equals("10", assert(exchange:receive()).body)
        assert.equals(0, gateway.process:wait())
        assert_clean(gateway)
    end)
end)


describe("a worker that is told to terminate", function()
    it("does so at once, with requests in flight or without", function()
        for _, count in ipairs({ 0, 10 }) do
            local gateway = start()
            assert.equals("waited 0", gateway:get("/call?s=0&id=0").body)
            for id = 1, count do
                gateway:send("/call?s=3&id=" .. id)
            end
            wait_for_calls(gateway, count + 1)
            local seconds = seconds_to_exit(gateway, "TERM")
            assert.is_true(seconds < 1, "it took " .. seconds .. " s")
            assert.same({}, groups.members(gateway:pid()))
            assert_clean(gateway)
        end
    end)

    it("leaves the other workers alone, and its successor works", function()
        local gateway = start({ workers = 2 })
        send_calls(gateway, 1, 20, 0)()
        local victim = gateway:worker_pids()[1]
        posix.kill(victim, "KILL")
        process.wait_until("a successor is there", function()
            return not groups.stat(victim) and #gateway:worker_pids() == 2
        end)
        send_calls(gateway, 21, 40, 0)()
        gateway:stop()
    end)
end)


describe("a reload", function()
    it("loses no response, 20 times under load", function()
        local gateway = start({ workers = 2 })
        local waiting = {}
        for round = 1, 20 do
            local first = round * 100
            local slow = send_calls(gateway, first, first + 5, 0.2)
            waiting[#waiting + 1] = slow
            local quick = send_calls(gateway, first + 10, first + 15, 0)
            gateway:reload()
            quick()
            send_calls(gateway, first + 20, first + 25, 0)()
            if #waiting > 2 then
                table.remove(waiting, 1)()
            end
        end
        for _, receive in ipairs(waiting) do
            receive()
        end
        process.wait_until("the old workers are gone", function()
            return #gateway:worker_pids() == 2
        end)
        gateway:stop()
        assert_clean(gateway)
    end)

    it("leaves nothing open where the first call comes when the worker is exiting", function()
        local gateway = start()
        local old = gateway:worker_pids()[1]
        local exchanges = {}
        for id = 1, 5 do
            exchanges[id] = gateway:send("/late?id=" .. id)
        end
        process.wait_until("all are being served", function()
            return select(2, gateway:error_log():gsub("waits for the worker", "")) == 5
        end)
        gateway:reload()
        for id = 1, 5 do
            assert.equals("waited " .. id, assert(exchanges[id]:receive()).body)
        end
        process.wait_until("the old worker is gone", function() return not groups.stat(old) end)
        gateway:stop()
        assert_clean(gateway)
    end)

    it("lets old workers finish what the new ones do not know of", function()
        local gateway = start()
        local old = gateway:worker_pids()[1]
        local receive = send_calls(gateway, 1, 10, 0.7)
        wait_for_calls(gateway, 10)
        gateway:reload()
        send_calls(gateway, 11, 20, 0)()
        assert.is_truthy(groups.stat(old))
        receive()
        process.wait_until("the old worker is gone", function() return not groups.stat(old) end)
        gateway:stop()
        assert_clean(gateway)
    end)
end)
