local certs = require("spec.support.certs")
local full_listener = require("spec.support.full_listener")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local system = require("system")

local HEAD = peer.receive_until("\r\n\r\n")

-- Milliseconds. What must not run out has far longer than it needs.
local SHORT, LONG = 200, 15000
-- Seconds in which a short time-out has run out for certain. No verdict hangs on less.
local BOUND = 10

local server


local function pack(...)
    return { n = select("#", ...), ... }
end


local function assert_timeout(values, code, stage)
    assert.equals(3, values.n)
    assert.is_nil(values[1])
    assert.equals("timeout", values[2])
    assert.equals(code, values[3].code)
    assert.equals(stage, values[3].stage)
    assert.is_string(values[3].hint)
end


-- Calls a function that has to be back long before the long time-outs run out.
local function soon(action, ...)
    local started = system.monotime()
    local values = pack(action(...))
    local seconds = system.monotime() - started
    assert.is_true(seconds < BOUND, "it took " .. seconds .. " s")
    return values
end


local function client(connect, send, read)
    local httpc = http.new()
    httpc:set_timeouts(connect, send, read)
    return httpc
end


local function target(scheme)
    return { scheme = scheme or "http", host = "127.0.0.1", port = server.port,
             ssl_trusted_certificate = scheme == "https" and certs.path("ca.crt") or nil }
end


-- A client that is connected to a server with this script.
local function connected(timeouts, script, tls)
    server = peer.start({ script = script, tls = tls })
    local httpc = client(unpack(timeouts))
    assert(httpc:connect(target(tls and "https")))
    return httpc
end


local function assert_unusable(httpc)
    assert.is_nil((httpc:get_reused_times()))
    local result, err = httpc:set_keepalive()
    assert.is_nil(result)
    assert.equals("closed", err)
end


after_each(function()
    if server then
        server:stop()
        server = nil
    end
end)


describe("the connect timeout", function()
    it("bounds the connection", function()
        server = full_listener()
        local httpc = client(SHORT, LONG, LONG)
        assert_timeout(soon(httpc.connect, httpc, target()), "connect_timeout", "connect")
        assert_unusable(httpc)
    end)

    it("bounds the TLS handshake", function()
        server = peer.start({ script = { peer.hang() } })
        local httpc = client(SHORT, LONG, LONG)
        assert_timeout(soon(httpc.connect, httpc, target("https")), "tls_timeout", "tls")
        assert_unusable(httpc)
        assert.equals(1, server:connections())
        server:wait_for_event("1 accepted")
    end)

    it("is not stretched by a server that drips its handshake", function()
        -- A record head that announces a ServerHello of a kilobyte, byte by byte.
        server = peer.start({ script = {
            peer.drip("\22\3\3\4\0\2\0\3\252" .. ("\3"):rep(600), 0.05), peer.hang(),
        } })
        local httpc = client(SHORT, LONG, LONG)
        assert_timeout(soon(httpc.connect, httpc, target("https")), "tls_timeout", "tls")
    end)

    it("bounds request_uri too", function()
        server = full_listener()
        local httpc = client(SHORT, LONG, LONG)
        assert_timeout(soon(httpc.request_uri, httpc, "http://127.0.0.1:" .. server.port .. "/"),
                       "connect_timeout", "connect")
    end)
end)


describe("the read timeout", function()
    it("bounds the wait for the response", function()
        local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.hang() })
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
        assert_unusable(httpc)
    end)

    it("bounds the wait for the response over TLS", function()
        local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.hang() }, {})
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
        assert_unusable(httpc)
    end)

    it("bounds the wait for the response to what was sent", function()
        local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.hang() })
        assert.is_true(httpc:send_request({}))
        assert_timeout(soon(httpc.read_response, httpc, {}), "read_timeout", "response")
        assert_unusable(httpc)
    end)

    it("is not stretched by a server that drips the head", function()
        -- The head is complete after three seconds, and each of its bytes is in time.
        local httpc = connected({ LONG, LONG, 500 }, {
            HEAD, peer.drip("HTTP/1.1 200 OK\r\nX-Slow: slow\r\nContent-Length: 0\r\n\r\n", 0.05),
            peer.hang(),
        })
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
    end)

    it("is not stretched by interim responses", function()
        local script = { HEAD }
        for _ = 1, 30 do
            script[#script + 1] = peer.send("HTTP/1.1 103 Early Hints\r\n\r\n")
            script[#script + 1] = peer.sleep(0.1)
        end
        script[#script + 1] = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        local httpc = connected({ LONG, LONG, 500 }, script)
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
    end)

    for framing, head in pairs({
        ["Content-Length"] = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        ["chunks"] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ["the end of the connection"] = "HTTP/1.1 200 OK\r\n\r\nhello",
    }) do
        it("bounds the wait for a body of " .. framing, function()
            local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.send(head), peer.hang() })
            local res = assert(httpc:request({}))
            assert_timeout(soon(res.read_body, res), "read_timeout", "body")
            -- Not into the pool.
            assert.not_equals(1, (httpc:set_keepalive()))
        end)

        it("bounds each read of a body of " .. framing, function()
            local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.send(head), peer.hang() })
            local res = assert(httpc:request({}))
            assert.equals("hello", res.body_reader(5))
            assert_timeout(soon(res.body_reader, 5), "read_timeout", "body")
        end)
    end

    it("is for each read of a body, however long all of it takes", function()
        local httpc = connected({ LONG, LONG, 1000 }, {
            HEAD, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n"),
            peer.drip(("x"):rep(30), 0.05), peer.hang(),
        })
        local res = assert(httpc:request({}))
        assert.equals(("x"):rep(30), (res:read_body()))
    end)

    it("does not run while nobody reads", function()
        local httpc = connected({ LONG, LONG, SHORT }, {
            HEAD, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"), peer.pause(),
            peer.send("late"), peer.hang(),
        })
        local res = assert(httpc:request({}))
        server:wait_for_event("1 waits")
        system.sleep(3 * SHORT / 1000)
        server:resume()
        assert.equals("late", (res:read_body()))
        assert.equals(1, httpc:set_keepalive())
    end)

    it("bounds request_uri too", function()
        server = peer.start({ script = { HEAD, peer.hang() } })
        local httpc = client(LONG, LONG, SHORT)
        assert_timeout(soon(httpc.request_uri, httpc, "http://127.0.0.1:" .. server.port .. "/"),
                       "read_timeout", "response")
        assert_unusable(httpc)
    end)
end)


describe("the send timeout", function()
    -- More than the buffers of both sockets take.
    local BODY = ("x"):rep(32 * 1024 * 1024)

    for name, tls in pairs({ ["plain"] = false, ["TLS"] = {} }) do
        it("bounds the wait for a server that does not read, " .. name, function()
            local httpc = connected({ LONG, SHORT, LONG }, { peer.hang() }, tls or nil)
            assert_timeout(soon(httpc.request, httpc, { method = "POST", body = BODY }),
                           "send_timeout", "send")
            assert_unusable(httpc)
        end)
    end

    for name, body in pairs({ ["a string"] = BODY, ["a table"] = { BODY },
                              ["an iterator"] = function() return BODY end }) do
        it("bounds send_request with a body from " .. name, function()
            local httpc = connected({ LONG, SHORT, LONG }, { peer.hang() })
            assert_timeout(soon(httpc.send_request, httpc, {
                method = "POST", body = body, headers = { ["Content-Length"] = #BODY },
            }), "send_timeout", "send")
            assert_unusable(httpc)
        end)
    end

    it("is for each step, however long all of it takes", function()
        -- 32 megabytes, and after the first 20 of them two seconds have passed.
        local script = {}
        for i = 1, 32 do
            script[#script + 1] = peer.receive(1024 * 1024)
            script[#script + 1] = i <= 20 and peer.sleep(0.1) or nil
        end
        script[#script + 1] = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        script[#script + 1] = peer.hang()
        local httpc = connected({ LONG, 1500, LONG }, script)
        local res, err = httpc:request({ method = "POST", body = BODY })
        assert.is_nil(err)
        assert.equals(200, res.status)
        httpc:close()
    end)
end)


describe("set_timeout", function()
    it("sets all three", function()
        server = peer.start({ script = { peer.hang() } })
        local httpc = http.new()
        httpc:set_timeout(SHORT)
        assert_timeout(soon(httpc.connect, httpc, target("https")), "tls_timeout", "tls")
        assert(httpc:connect(target()))
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
        assert(httpc:connect(target()))
        assert_timeout(soon(httpc.request, httpc, {
            method = "POST", body = ("x"):rep(32 * 1024 * 1024),
        }), "send_timeout", "send")
    end)

    it("applies to the connection that is open", function()
        local httpc = connected({ LONG, LONG, LONG }, { HEAD, peer.hang() })
        httpc:set_timeout(SHORT)
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
    end)

    it("is of one client alone", function()
        http.new():set_timeout(1)
        local httpc = connected({ LONG, LONG, LONG }, {
            HEAD, peer.sleep(0.05), peer.send("HTTP/1.1 204 No Content\r\n\r\n"), peer.hang(),
        })
        http.new():set_timeout(1)
        assert.equals(204, assert(httpc:request({})).status)
        httpc:close()
    end)
end)


describe("in nginx", function()
    it("time-outs are the same", function()
        local full = full_listener()
        server = peer.start({ script = { peer.hang() } })
        assert.equals("timeout connect_timeout\ntimeout tls_timeout\ntimeout read_timeout\n"
                      .. "timeout send_timeout\n", nginx.run_lua([[
            local http = require("resty.mtls.http")
            local function try(port, scheme, params)
                local httpc = http.new()
                httpc:set_timeout(${short})
                local ok, err, details = httpc:connect{ scheme = scheme, host = "127.0.0.1",
                                                        port = port }
                if ok then
                    ok, err, details = httpc:request(params)
                end
                print(ok or err .. " " .. details.code)
            end
            try(${full}, "http")
            try(${port}, "https")
            try(${port}, "http", {})
            try(${port}, "http", { method = "POST", body = ("x"):rep(32 * 1024 * 1024) })
        ]], { phase = "access", vars = { full = full.port, port = server.port, short = SHORT } }))
        full.stop()
    end)
end)


describe("a connection whose server took too long to answer", function()
    after_each(function() server:stop() end)

    -- As one of a cosocket, which is open until it is closed.
    local function assert_closes_once(httpc)
        assert.same({ nil, "closed" }, { httpc:set_keepalive() })
        assert.equals(1, httpc:close())
        assert.same({ nil, "closed" }, { httpc:close() })
    end

    it("can be closed once, before its response", function()
        local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.hang() })
        assert_timeout(soon(httpc.request, httpc, {}), "read_timeout", "response")
        assert_closes_once(httpc)
    end)

    it("can be closed once, in the middle of its body", function()
        local head = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"
        local httpc = connected({ LONG, LONG, SHORT }, { HEAD, peer.send(head), peer.hang() })
        local res = assert(httpc:request({}))
        assert_timeout(soon(res.read_body, res), "read_timeout", "body")
        assert_closes_once(httpc)
    end)
end)
