local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local peer = require("spec.support.peer")

local HEAD = peer.receive_until("\r\n\r\n")

local server, retries


local function answer(body)
    return peer.send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
end


local function target(tls)
    return {
        scheme = tls and "https" or "http", host = "localhost", port = server.port,
        ssl_trusted_certificate = tls and certs.path("ca.crt") or nil,
        ssl_cert_path = tls and certs.path("client-a.crt") or nil,
        ssl_key_path = tls and certs.path("client-a.key") or nil,
    }
end


-- A client whose connection came out of the pool, to a server that does `steps` on that connection
-- instead of answering its second request, and that answers on any other one.
local function reused(steps, tls, others)
    server = peer.start({ tls = tls, scripts = {
        { HEAD, answer("first"), unpack(steps) },
        others or { HEAD, answer("again"), peer.receive_to_end() },
    } })
    local httpc = http.new()
    httpc:set_timeout(10000)
    assert(httpc:connect(target(tls)))
    assert.equals("first", assert(httpc:request({ path = "/first" })):read_body())
    assert.equals(1, httpc:set_keepalive())
    assert(httpc:connect(target(tls)))
    assert.equals(1, httpc:get_reused_times())
    retries = http.stats().retries
    return httpc
end


local function assert_retried(httpc, res, err)
    assert.truthy(res, err)
    assert.equals("again", assert(res:read_body()))
    assert.equals(2, server:connections())
    assert.equals(1, http.stats().retries - retries)
    -- It is another connection, and as good as any.
    assert.equals(0, httpc:get_reused_times())
    assert.equals(1, httpc:set_keepalive())
end


local function assert_not_retried(code, res, _, details)
    assert.is_nil(res)
    assert.equals(code, details.code)
    assert.equals(1, server:connections())
    assert.equals(0, http.stats().retries - retries)
end


after_each(function()
    if server then
        server:stop()
        server = nil
    end
end)


describe("a pooled connection that turns out dead is replaced", function()
    local TLS = { client_ca = "ca" }

    for name, case in pairs({
        ["closed"] = { { HEAD, peer.close() } },
        ["reset"] = { { HEAD, peer.reset() } },
        ["closed before the request was read"] = { { peer.receive(1), peer.close() } },
        ["closed in TLS"] = { { HEAD, peer.close() }, TLS },
        ["cut without close_notify"] = { { HEAD, peer.cut() }, TLS },
        ["reset in TLS"] = { { HEAD, peer.reset() }, TLS },
        ["closed in TLS 1.2"] = { { HEAD, peer.close() }, { client_ca = "ca", version = "1.2" } },
    }) do
        it("when it is " .. name, function()
            local httpc = reused(case[1], case[2])
            assert_retried(httpc, httpc:request({ path = "/second" }))
            assert.matches("^GET /second HTTP/1.1\r\n", server:received(2))
        end)
    end

    for _, method in ipairs({ "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE" }) do
        it("for " .. method, function()
            local head = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            local httpc = reused({ HEAD }, nil, method == "HEAD" and { HEAD, head,
                                                                      peer.receive_to_end() })
            local res = assert(httpc:request({ method = method, path = "/second" }))
            assert.equals(method == "HEAD" and "" or "again", assert(res:read_body()))
            assert.matches("^" .. method .. " /second ", server:received(2))
            assert.equals(1, http.stats().retries - retries)
            assert.equals(1, httpc:set_keepalive())
        end)
    end

    it("with the whole body of the request", function()
        local body = ("0123456789"):rep(30000) .. "end"
        local httpc = reused({ HEAD, peer.receive(100) }, nil,
                             { peer.receive_until("end"), answer("again"), peer.receive_to_end() })
        assert_retried(httpc, httpc:request({ method = "PUT", path = "/second", body = body }))
        local received = server:received(2)
        assert.matches("^PUT /second .*\r\nContent%-Length: " .. #body .. "\r\n", received)
        assert.equals(body, received:match("\r\n\r\n(.*)$"))
    end)

    it("in request_uri", function()
        local httpc = reused({ HEAD })
        assert.equals(1, httpc:set_keepalive())
        local res = assert(httpc:request_uri("http://localhost:" .. server.port .. "/second"))
        assert.equals("again", res.body)
        assert.equals(2, server:connections())
        assert.equals(1, http.stats().retries - retries)
    end)

    it("every time", function()
        server = peer.start({ scripts = { { HEAD, answer("ok"), HEAD } } })
        local before = http.stats().retries
        for _ = 1, 10 do
            local res = assert(http.new():request_uri("http://localhost:" .. server.port))
            assert.equals("ok", res.body)
        end
        assert.equals(10, server:connections())
        assert.equals(9, http.stats().retries - before)
    end)
end)


describe("a pooled connection that turns out dead is replaced once", function()
    it("and no more", function()
        local httpc = reused({ HEAD }, nil, { HEAD })
        local res, err, details = httpc:request({ path = "/second" })
        assert.is_nil(res)
        assert.equals("closed", err)
        assert.equals("closed", details.code)
        assert.equals(2, server:connections())
        assert.equals(1, http.stats().retries - retries)
        assert.is_nil((httpc:get_reused_times()))
    end)

    it("and the error of the replacement is told", function()
        local httpc = reused({ HEAD }, nil, { HEAD, peer.send("nonsense\r\n\r\n") })
        local _, _, details = httpc:request({ path = "/second" })
        assert.equals("http_malformed", details.code)
        assert.equals(2, server:connections())
    end)

    it("within the deadline of all of it", function()
        local httpc = reused({ HEAD }, nil, { HEAD, peer.hang() })
        assert.equals(1, httpc:set_keepalive())
        local uri = "http://localhost:" .. server.port .. "/second"
        local res, err, details = httpc:request_uri(uri, { deadline = 500 })
        assert.is_nil(res)
        assert.equals("timeout", err)
        assert.equals("read_timeout", details.code)
        assert.equals(2, server:connections())
    end)
end)


describe("a request is not sent again", function()
    for _, method in ipairs({ "POST", "PATCH", "CONNECT", "LOCK" }) do
        it("if its method is " .. method, function()
            local httpc = reused({ HEAD })
            assert_not_retried("closed", httpc:request({ method = method, path = "/second",
                                                         body = method == "POST" and "x" }))
        end)
    end

    it("with retry_stale = false", function()
        local httpc = reused({ HEAD })
        assert_not_retried("closed", httpc:request({ path = "/second", retry_stale = false }))
    end)

    it("with retry_stale = false for request_uri", function()
        local httpc = reused({ HEAD })
        assert.equals(1, httpc:set_keepalive())
        assert_not_retried("closed", httpc:request_uri(
            "http://localhost:" .. server.port .. "/second", { retry_stale = false }))
    end)

    for name, bytes in pairs({
        ["a byte"] = "H",
        ["a status line"] = "HTTP/1.1 200 OK\r\n",
        ["an interim response"] = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        ["a 100 (Continue)"] = "HTTP/1.1 100 Continue\r\n\r\n",
    }) do
        it("after " .. name .. " of its response", function()
            local httpc = reused({ HEAD, peer.send(bytes) })
            assert_not_retried("closed", httpc:request({ path = "/second" }))
        end)
    end

    it("after a 100 (Continue) to its head", function()
        local httpc = reused({ HEAD, peer.send("HTTP/1.1 100 Continue\r\n\r\n"),
                               peer.receive(4) })
        assert_not_retried("closed", httpc:request({
            method = "PUT", path = "/second", body = "body", headers = { Expect = "100-continue" },
        }))
    end)

    it("after its response came, and broke off in the body", function()
        local half = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
        local httpc = reused({ HEAD, peer.send(half) })
        local res = assert(httpc:request({ path = "/second" }))
        assert_not_retried("closed", res:read_body())
    end)

    it("after a nonsense response", function()
        local httpc = reused({ HEAD, peer.send("nonsense\r\n\r\n"), peer.receive_to_end() })
        assert_not_retried("http_malformed", httpc:request({ path = "/second" }))
    end)

    it("if the server does not answer in time", function()
        local httpc = reused({ HEAD, peer.hang() })
        httpc:set_timeouts(10000, 10000, 100)
        assert_not_retried("read_timeout", httpc:request({ path = "/second" }))
    end)

    it("if its body came from an iterator, which cannot be asked again", function()
        local httpc = reused({ HEAD })
        local chunks = { "x" }
        assert_not_retried("closed", httpc:request({
            method = "PUT", path = "/second", headers = { ["Content-Length"] = 1 },
            body = function() return table.remove(chunks) end,
        }))
    end)

    it("on a connection that is new", function()
        server = peer.start({ script = { HEAD } })
        local httpc = http.new()
        retries = http.stats().retries
        assert(httpc:connect(target()))
        assert_not_retried("closed", httpc:request({ path = "/" }))
    end)
end)
