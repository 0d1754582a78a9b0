local nginx = require("spec.support.nginx")
local prelude = require("spec.support.prelude")


local server, gateway

local TOOLS = prelude .. [[
    local function answer(id)
        local body, err = get("/echo?id=" .. id)
        if not body then
            return nil, err
        end
        return body:match("uri: /echo%?id=(%d+)\n") == tostring(id), body
    end

    local function at_once(count, first, ask)
        local threads, good = {}, 0
        for i = 1, count do
            threads[i] = ngx.thread.spawn(ask, first + i)
        end
        for i = 1, count do
            local ok, right, err = ngx.thread.wait(threads[i])
            if ok and right then
                good = good + 1
            else
                print("wrong: ", right, err)
            end
        end
        return good
    end

    local function nothing_in_flight()
        return wait_until(function() return stats().operations_in_flight == 0 end)
    end
]]


setup(function()
    server = nginx.upstream({ keepalive_requests = 100000, server = [[
        location /mirror {
            client_max_body_size 0;
            content_by_lua_block {
                ngx.req.read_body()
                ngx.sleep(math.random() / 100)
                ngx.print(ngx.var.arg_id, ":", ngx.req.get_body_data())
            }
        }
    ]] })
    gateway = nginx.gateway({ server = [[
        location = /call {
            content_by_lua_block {
                ]] .. TOOLS .. [[
                local right, err = answer(tonumber(ngx.var.arg_id))
                ngx.print(right and ngx.var.arg_id or err)
            }
        }
    ]], vars = { up = server.port } })
end)

teardown(function()
    gateway:stop()
    server:stop()
end)


local function run(chunk)
    return gateway:run(TOOLS .. chunk, { vars = { up = server.port }, timeout = 30 })
end


describe("under load", function()
    after_each(function()
        for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
            assert.is_nil(gateway:error_log():match("[^\n]*%[" .. level .. "%][^\n]*"))
        end
    end)

    it("64 requests at once get their own answers", function()
        assert.equals("64\ntrue\n", run([[
            print(at_once(64, 0, answer))
            print(nothing_in_flight())
        ]]))
    end)

    it("64 requests at once get their own answers from kept connections, 20 times", function()
        assert.equals("1280\ntrue\n", run([[
            local good = 0
            for round = 1, 20 do
                good = good + at_once(64, round * 1000, answer)
            end
            print(good)
            print(nothing_in_flight())
        ]]))
    end)

    it("1000 requests one after the other get their own answers", function()
        assert.equals("1000\t1000\ttrue\n", run([[
            local before, good = stats().requests, 0
            for id = 1, 1000 do
                good = good + (answer(id) and 1 or 0)
            end
            print(good, stats().requests - before, nothing_in_flight())
        ]]))
    end)

    it("64 clients that ask 10 times each on their own connections get their own answers",
       function()
        assert.equals("64\ttrue\n", run([[
            print(at_once(64, 0, function(first)
                local httpc = http.new()
                assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                                 port = ${up} }))
                for i = 1, 10 do
                    local id = first * 100 + i
                    local sent = id .. ("x"):rep(id % 4000)
                    local res = assert(httpc:request({ method = "POST", body = sent,
                                                       path = "/mirror?id=" .. id }))
                    local body = assert(res:read_body())
                    if body ~= id .. ":" .. sent then
                        return false, body
                    end
                end
                return httpc:set_keepalive()
            end), nothing_in_flight())
        ]]))
    end)

    it("64 requests of nginx's own clients at once get their own answers", function()
        for round = 1, 3 do
            local exchanges = {}
            for i = 1, 64 do
                exchanges[i] = gateway:send("/call?id=" .. round * 100 + i)
            end
            for i = 1, 64 do
                local response = assert(exchanges[i]:receive())
                assert.equals(tostring(round * 100 + i), response.body)
            end
        end
    end)

    it("slow and quick answers arrive in any order", function()
        assert.equals("64\ttrue\n", run([[
            print(at_once(64, 0, function(id)
                local body, err = get("/slow?s=" .. (id * 7 % 10) / 50)
                return body == "slow" and answer(id), err
            end), nothing_in_flight())
        ]]))
    end)

    it("failures are told to those that they happened to", function()
        assert.equals("60\ttrue\n", run([[
            print(at_once(60, 0, function(id)
                if id % 3 == 0 then
                    return answer(id)
                end
                local httpc = http.new()
                if id % 3 == 1 then
                    local ok, err = httpc:connect({ scheme = "http", host = "127.0.0.1",
                                                    port = 1 })
                    return not ok and err:find("connection refused", 1, true), err
                end
                httpc:set_timeouts(5000, 5000, 50)
                assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                                 port = ${up} }))
                local res, err = httpc:request({ path = "/slow?s=0.5" })
                return not res and err:find("timeout", 1, true), err
            end), nothing_in_flight())
        ]]))
    end)
end)
