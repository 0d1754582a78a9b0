local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local PRELUDE = [[
    local http = require("resty.mtls.http")
    local target = {
        scheme = "https", host = "localhost", port = ${port},
        ssl_cert_path = "${cert.client-a.crt}", ssl_key_path = "${cert.client-a.key}",
        ssl_trusted_certificate = "${cert.ca.crt}",
    }

    local function request(path, keepalive_pool)
        local httpc = http.new()
        assert(httpc:connect(target))
        local res = assert(httpc:request{ path = path or "/echo" })
        assert(res.status == 200)
        assert(res:read_body())
        assert(httpc:set_keepalive(60000, keepalive_pool) == 1)
    end

    local function close_after(options)
        local httpc = http.new()
        assert(httpc:connect(options or target))
        local res = assert(httpc:request{ path = "/echo" })
        assert(res:read_body())
        assert(httpc:close() == 1)
    end

    -- Calls `action` and tells by how much each of these counters has changed.
    local function changes(action, ...)
        local before = http.stats()
        action()
        local after, differences = http.stats(), {}
        for i, name in ipairs({ ... }) do
            differences[i] = after[name] - before[name]
        end
        return unpack(differences)
    end
]]


-- Every test has a gateway of its own: the counters are those of a process.
describe("the counters", function()
    local server, gateway

    setup(function() server = nginx.upstream() end)

    teardown(function() server:stop() end)

    before_each(function() gateway = nginx.gateway() end)

    after_each(function() gateway:stop() end)

    local function run(code, vars)
        local given = { port = server.port }
        for name, value in pairs(vars or {}) do
            given[name] = value
        end
        return gateway:run(PRELUDE .. code, { vars = given, timeout = 30 })
    end

    it("are numbers, and zero at first", function()
        assert.equals("", run([[
            local stats = http.stats()
            for _, name in ipairs({
                "operations", "operations_in_flight", "wakes", "connections_opened",
                "connections_open", "connections_idle", "connections_reused", "handshakes_full",
                "handshakes_resumed", "handshakes_failed", "requests", "retries",
            }) do
                assert(stats[name] == 0, name .. ": " .. tostring(stats[name]))
            end
            assert(select("#", http.stats()) == 1)
        ]]))
    end)

    it("show one operation from connect to set_keepalive on a pooled connection", function()
        assert.equals("1\t1\t1\t0\n", run([[
            request()
            return changes(request, "operations", "requests", "connections_reused",
                           "connections_opened")
        ]]))
    end)

    it("show one operation a request on a pooled connection, time after time", function()
        assert.equals("100\t100\n", run([[
            request()
            return changes(function()
                for _ = 1, 100 do request() end
            end, "operations", "requests")
        ]]))
    end)

    it("show one operation for request_uri and for a request with a body too", function()
        assert.equals("1\t1\t1\n", run([[
            local function request_uri()
                local uri = "https://localhost:${port}/echo"
                assert(http.new():request_uri(uri, target))
            end
            local function post()
                local httpc = http.new()
                assert(httpc:connect(target))
                local res = assert(httpc:request{ method = "POST", path = "/body",
                                                  body = { "one", "two" } })
                assert(res:read_body() == "onetwo")
                assert(httpc:set_keepalive() == 1)
            end
            local function read_in_parts()
                local httpc = http.new()
                assert(httpc:connect(target))
                local res = assert(httpc:request{ path = "/echo" })
                while res.body_reader(16) do end
                assert(httpc:set_keepalive() == 1)
            end
            request_uri()
            return (changes(request_uri, "operations")), (changes(post, "operations")),
                (changes(read_in_parts, "operations"))
        ]]))
    end)

    it("show one operation more for a new connection", function()
        assert.equals("2\t1\t0\n", run([[
            return changes(request, "operations", "connections_opened", "connections_reused")
        ]]))
    end)

    it("show far fewer wakes than requests when there are many at once", function()
        local output = run([[
            local function burst()
                local threads = {}
                for i = 1, 64 do
                    threads[i] = ngx.thread.spawn(request, "/echo", 64)
                end
                for i = 1, 64 do
                    assert(ngx.thread.wait(threads[i]))
                end
            end
            burst()
            assert(http.stats().connections_idle == 64)
            for _ = 1, 5 do
                print(changes(burst, "requests", "operations", "connections_reused", "wakes"))
            end
        ]])
        local fewest = math.huge
        for requests, operations, reused, wakes
            in output:gmatch("(%d+)\t(%d+)\t(%d+)\t(%d+)\n") do
            assert.same({ "64", "64", "64" }, { requests, operations, reused })
            assert.is_true(tonumber(wakes) >= 1, "no wake at all")
            -- On a busy machine the two threads may have their turns one after the other.
            fewest = math.min(fewest, tonumber(wakes))
        end
        assert.is_true(fewest <= 32, fewest .. " wakes")
    end)

    it("tell connections that are open from idle ones", function()
        assert.equals("2\t2\t0\n2\t2\t1\n2\t1\t1\n2\t0\t0\n", run([[
            local function show()
                local stats = http.stats()
                print(stats.connections_opened, stats.connections_open, stats.connections_idle)
            end
            local first, second = http.new(), http.new()
            assert(first:connect(target))
            assert(second:connect(target))
            show()
            assert(first:set_keepalive() == 1)
            show()
            second:close()
            show()
            assert(first:connect(target))
            first:close()
            show()
        ]]))
    end)

    it("tell full, resumed and failed handshakes apart", function()
        assert.equals("1\t0\t0\n0\t1\t0\n0\t0\t1\n", run([[
            local names = { "handshakes_full", "handshakes_resumed", "handshakes_failed" }
            local function fail()
                local options = setmetatable({ ssl_trusted_certificate = "${cert.other-ca.crt}" },
                                             { __index = target })
                local ok = http.new():connect(options)
                assert(not ok)
            end
            print(changes(close_after, unpack(names)))
            print(changes(close_after, unpack(names)))
            print(changes(fail, unpack(names)))
        ]]))
    end)

    it("show no handshake over http", function()
        assert.equals("1\t0\t0\n", run([[
            return changes(function()
                close_after({ scheme = "http", host = "localhost", port = ${plain} })
            end, "connections_opened", "handshakes_full", "handshakes_resumed")
        ]], { plain = server.ports.plain }))
    end)

    it("show no connection and no operation for options that are refused", function()
        assert.equals("0\t0\t0\n", run([[
            return changes(function()
                assert(not http.new():connect{ scheme = "https", host = "localhost",
                                               ssl_cert = ${pem.client-a.crt} })
                assert(not http.new():request{ path = "/a b" })
            end, "operations", "connections_opened", "requests")
        ]]))
    end)

    it("show what is in flight, and nothing after it", function()
        local function in_flight()
            return gateway:run("return require('resty.mtls.http').stats().operations_in_flight")
        end
        local slow = gateway:begin(PRELUDE .. 'request("/slow?s=1")',
                                   { vars = { port = server.port } })
        process.wait_until("the request is in flight", function()
            return in_flight() == "1\n"
        end)
        slow:wait()
        assert.equals("0\n", in_flight())
    end)
end)
