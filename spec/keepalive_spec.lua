local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")

local HEAD = peer.receive_until("\r\n\r\n")

local server


-- A connected client; `tls` is whether the server speaks it.
local function connected(tls)
    local httpc = http.new()
    httpc:set_timeout(10000)
    assert(httpc:connect({
        scheme = tls and "https" or "http", host = "localhost", port = server.port,
        ssl_trusted_certificate = tls and certs.path("ca.crt"),
    }))
    return httpc
end


local function answer(body, headers)
    return peer.send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n" .. (headers or "")
                     .. "\r\n" .. body)
end


local function get(httpc, path)
    local res = assert(httpc:request({ path = path or "/" }))
    return (assert(res:read_body()))
end


local function pack(...)
    return { n = select("#", ...), ... }
end


local function assert_not_open(values)
    assert.same({ n = 2, nil, "closed" }, values)
end


-- What was done to the first connection must not have left it in the pool.
local function assert_next_is_new(tls)
    local httpc = connected(tls)
    assert.equals(0, httpc:get_reused_times())
    assert.equals("second", get(httpc))
    httpc:close()
    assert.equals(2, server:connections())
end


after_each(function()
    if server then
        server:stop()
        server = nil
    end
end)


describe("a kept connection", function()
    it("is used again, and knows how often", function()
        server = nginx.upstream()
        server.port = server.ports.plain
        for times = 0, 3 do
            local httpc = connected()
            assert.same({ n = 1, times }, pack(httpc:get_reused_times()))
            assert.matches("connection_requests: " .. times + 1 .. "\n",
                           (get(httpc, "/echo")))
            assert.same({ n = 1, 1 }, pack(httpc:set_keepalive()))
        end
    end)

    it("may carry several requests of one caller", function()
        server = nginx.upstream()
        server.port = server.ports.plain
        local httpc = connected()
        for count = 1, 3 do
            assert.matches("connection_requests: " .. count .. "\n", (get(httpc, "/echo")))
        end
        assert.equals(0, httpc:get_reused_times())
        httpc:close()
    end)

    it("may be connected and not be used", function()
        server = peer.start({ script = { HEAD, answer("hello"), peer.hang() } })
        assert.equals(1, connected():set_keepalive())
        local httpc = connected()
        assert.equals(1, httpc:get_reused_times())
        assert.equals("hello", get(httpc))
        httpc:close()
    end)

    it("belongs to the pool, no longer to its client", function()
        server = peer.start({ script = { HEAD, answer("x"), peer.hang() } })
        local httpc = connected()
        get(httpc)
        assert.equals(1, httpc:set_keepalive())
        assert_not_open(pack(httpc:get_reused_times()))
        assert_not_open(pack(httpc:set_keepalive()))
        assert_not_open(pack(httpc:close()))
        local res, err = httpc:request({ path = "/" })
        assert.is_nil(res)
        assert.equals("closed", err)
        assert.equals(1, connected():get_reused_times())
    end)

    it("is given to one client at a time", function()
        server = peer.start({ script = { HEAD, answer("x"), peer.hang() } })
        local first = connected()
        get(first)
        assert.equals(1, first:set_keepalive())
        local second, third = connected(), connected()
        assert.equals(1, second:get_reused_times())
        assert.equals(0, third:get_reused_times())
        second:close()
        third:close()
    end)

    it("is the one that was put back last", function()
        server = nginx.upstream()
        server.port = server.ports.plain
        local first, second = connected(), connected()
        get(first, "/echo")
        local number = get(second, "/echo"):match("connection: (%d+)")
        assert.equals(1, first:set_keepalive())
        assert.equals(1, second:set_keepalive())
        local httpc = connected()
        assert.equals(number, get(httpc, "/echo"):match("connection: (%d+)"))
        httpc:close()
    end)

    for name, tls in pairs({ ["plain"] = false, ["TLS"] = {} }) do
        it("that the server closed is not handed out, " .. name, function()
            server = peer.start({ tls = tls or nil, scripts = {
                { HEAD, answer("first"), peer.close() },
                { HEAD, answer("second"), peer.hang() },
            } })
            local httpc = connected(tls)
            assert.equals("first", get(httpc))
            local kept = httpc:set_keepalive()
            assert.is_true(kept == 1 or kept == 2)
            server:wait_for_event("1 closed")
            assert_next_is_new(tls)
        end)
    end

    it("that the server cut without close_notify is not handed out", function()
        server = peer.start({ tls = {}, scripts = {
            { HEAD, answer("first"), peer.pause(), peer.cut() },
            { HEAD, answer("second"), peer.hang() },
        } })
        local httpc = connected(true)
        get(httpc)
        assert.equals(1, httpc:set_keepalive())
        server:resume()
        server:wait_for_event("1 closed")
        assert_next_is_new(true)
    end)
end)


describe("a connection is not kept", function()
    it("without having been made", function()
        local httpc = http.new()
        assert_not_open(pack(httpc:set_keepalive()))
        assert_not_open(pack(httpc:get_reused_times()))
        assert_not_open(pack(httpc:close()))
    end)

    it("after it was closed", function()
        server = peer.start({ scripts = { { peer.receive_to_end() },
                                          { HEAD, answer("second"), peer.hang() } } })
        local httpc = connected()
        assert.same({ n = 1, 1 }, pack(httpc:close()))
        assert_not_open(pack(httpc:set_keepalive()))
        server:wait_for_event("1 closed")
        assert_next_is_new()
    end)

    for name, headers in pairs({
        ["Connection: close"] = "Connection: close\r\n",
        ["CONNECTION: Close"] = "CONNECTION: Close\r\n",
        ["a list with close"] = "Connection: foo, close\r\n",
    }) do
        it("after " .. name, function()
            server = peer.start({ scripts = {
                { HEAD, answer("first", headers), peer.hang() },
                { HEAD, answer("second"), peer.hang() },
            } })
            local httpc = connected()
            assert.equals("first", get(httpc))
            assert.same({ n = 2, 2, "connection must be closed" }, pack(httpc:set_keepalive()))
            assert_next_is_new()
        end)
    end

    it("before its body has come", function()
        server = peer.start({ scripts = {
            { HEAD, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfir"), peer.hang() },
            { HEAD, answer("second"), peer.hang() },
        } })
        local httpc = connected()
        assert(httpc:request({ path = "/" }))
        assert.same({ n = 2, nil, "unread data in buffer" }, pack(httpc:set_keepalive()))
        assert_next_is_new()
    end)

    it("while a large body is unread", function()
        server = nginx.upstream()
        server.port = server.ports.plain
        local httpc = connected()
        assert(httpc:request({ path = "/bytes?n=5000000" }))
        assert.is_nil((httpc:set_keepalive()))
        local another = connected()
        assert.equals(0, another:get_reused_times())
        assert.matches("connection_requests: 1\n", (get(another, "/echo")))
        another:close()
    end)

    it("with bytes behind the response", function()
        server = peer.start({ scripts = {
            { HEAD, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst"
                              .. "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
              peer.hang() },
            { HEAD, answer("second"), peer.hang() },
        } })
        local httpc = connected()
        assert.equals("first", get(httpc))
        assert.same({ n = 2, 2, "connection must be closed" }, pack(httpc:set_keepalive()))
        assert_next_is_new()
    end)

    for name, tls in pairs({ ["plain"] = false, ["TLS"] = {} }) do
        it("with bytes that come while it is idle, " .. name, function()
            server = peer.start({ tls = tls or nil, scripts = {
                { HEAD, answer("first"), peer.pause(), answer("evil"), peer.pause() },
                { HEAD, answer("second"), peer.hang() },
            } })
            local httpc = connected(tls)
            assert.equals("first", get(httpc))
            assert.equals(1, httpc:set_keepalive())
            server:resume()
            server:wait_for_event("1 waits.*1 waits")
            assert_next_is_new(tls)
        end)
    end

    -- Whoever got it next would be answered with the response to somebody else's request.
    for name, case in pairs({
        ["the response to what was sent"] = {
            server = { HEAD, peer.hang() },
            leave = function(httpc) assert(httpc:send_request({})) end,
        },
        ["the second of two responses"] = {
            server = { HEAD, answer("first"), HEAD, peer.hang() },
            leave = function(httpc)
                assert(httpc:send_request({}))
                assert(httpc:send_request({}))
                assert.equals("first", assert(httpc:read_response({})):read_body())
            end,
        },
        ["a pipelined response"] = {
            server = { HEAD, answer("first"), HEAD, peer.hang() },
            leave = function(httpc)
                local responses = assert(httpc:request_pipeline({ {}, {} }))
                assert.equals("first", responses[1]:read_body())
            end,
        },
        ["the rest of a request body"] = {
            server = { HEAD, peer.hang() },
            leave = function(httpc)
                assert.is_nil((httpc:send_request({
                    method = "POST", headers = { ["Content-Length"] = 100 },
                    body = function() return nil, "no more" end,
                })))
            end,
        },
    }) do
        it("while " .. name .. " is due", function()
            server = peer.start({ scripts = { case.server,
                                              { HEAD, answer("second"), peer.hang() } } })
            local httpc = connected()
            case.leave(httpc)
            assert.not_equals(1, (httpc:set_keepalive()))
            assert_next_is_new()
        end)
    end

    it("after a request whose body came to an early end", function()
        server = peer.start({ scripts = {
            { HEAD, peer.hang() }, { HEAD, answer("second"), peer.hang() },
        } })
        local httpc = connected()
        local res, err = httpc:request({
            method = "POST", headers = { ["Content-Length"] = 100 },
            body = function() return nil, "no more" end,
        })
        assert.is_nil(res)
        assert.equals("no more", err)
        assert.not_equals(1, (httpc:set_keepalive()))
        assert_next_is_new()
    end)
end)


describe("a response that nobody read", function()
    it("but that has come is not mistaken for the next one", function()
        server = peer.start({ script = { HEAD, answer("first"), HEAD, answer("second"),
                                         peer.hang() } })
        local httpc = connected()
        assert(httpc:request({ path = "/first" }))
        assert.equals(1, httpc:set_keepalive())
        local another = connected()
        assert.equals(1, another:get_reused_times())
        assert.equals("second", get(another))
        another:close()
    end)
end)
