local certs = require("spec.support.certs")
local cjson = require("cjson.safe")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")

local CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

local server, httpc


-- A client that is connected to a server with this script. Both end with the test.
local function connect_to(script, tls)
    server = peer.start({ script = script, tls = tls })
    httpc = http.new()
    httpc:set_timeout(10000)
    assert(httpc:connect({
        scheme = tls and "https" or "http", host = "localhost", port = server.port,
        ssl_trusted_certificate = tls and certs.path("ca.crt"),
    }))
end


-- The response to a request that is answered with these bytes, after which the connection stays.
local function response_to(params, bytes)
    connect_to({ peer.receive_until("\r\n\r\n"), peer.send(bytes), peer.hang() })
    return assert(httpc:request(params))
end


local function response(bytes)
    return response_to({ path = "/" }, bytes)
end


local function pack(...)
    return { n = select("#", ...), ... }
end


-- All parts that a body reader gives, with the size `max`.
local function read_parts(res, max)
    local parts = {}
    while true do
        local values = pack(res.body_reader(max))
        assert.equals(1, values.n)
        if values[1] == nil then
            return parts
        end
        parts[#parts + 1] = values[1]
    end
end


after_each(function()
    if httpc then
        httpc:close()
        httpc = nil
    end
    if server then
        server:stop()
        server = nil
    end
end)


describe("a response", function()
    it("has what the server said and nothing else of note", function()
        local res = response("HTTP/1.1 418 I'm a teapot\r\nContent-Length: 2\r\n\r\nhi")
        assert.equals(418, res.status)
        assert.equals("I'm a teapot", res.reason)
        assert.equals("2", res.headers["Content-Length"])
        assert.is_true(res.has_body)
        assert.is_function(res.body_reader)
        assert.is_function(res.read_body)
        assert.is_nil(res.body)
        res.mine = 1
        assert.equals(1, res.mine)
        assert.same({ n = 1, "hi" }, pack(res:read_body()))
    end)

    it("may have no reason", function()
        local res = response("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n")
        assert.equals(200, res.status)
        assert.equals("", res.reason)
    end)

    it("that is no HTTP is an error of three values", function()
        connect_to({ peer.receive_until("\r\n\r\n"), peer.send("SSH-2.0-OpenSSH\r\n\r\n"),
                     peer.hang() })
        local values = pack(httpc:request({ path = "/" }))
        assert.equals(3, values.n)
        assert.is_nil(values[1])
        assert.equals("couldn't parse HTTP version from response status line: SSH-2.0-OpenSSH",
                      values[2])
        assert.equals("http_malformed", values[3].code)
        assert.equals("response", values[3].stage)
        assert.is_nil(httpc:set_keepalive())
    end)

    it("that does not come before the end of the connection is 'closed'", function()
        for _, tls in ipairs({ false, {} }) do
            connect_to({ peer.receive_until("\r\n\r\n"), peer.close() }, tls or nil)
            local values = pack(httpc:request({ path = "/" }))
            assert.equals(3, values.n)
            assert.same({ "closed", "closed", "response" },
                        { values[2], values[3].code, values[3].stage })
            server:stop()
        end
        server = nil
    end)
end)


describe("response headers", function()
    local res

    before_each(function()
        res = response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-MiXed-Case: a\r\n"
                       .. "set-cookie: one\r\nSet-Cookie: two\r\nSET-COOKIE: three\r\n"
                       .. "X-Empty:\r\n\r\n")
    end)

    it("are found in any letter case and with underscores", function()
        for _, name in ipairs({ "X-MiXed-Case", "x-mixed-case", "X-MIXED-CASE", "x_mixed_case",
                                "X_Mixed-Case" }) do
            assert.equals("a", res.headers[name])
        end
        assert.equals("a", res.headers.x_mixed_case)
        assert.equals("", res.headers["x-empty"])
        assert.is_nil(res.headers["x-other"])
        assert.is_nil(res.headers[1])
    end)

    it("are iterated as the server spelled them", function()
        local names = {}
        for name in pairs(res.headers) do
            names[#names + 1] = name
        end
        table.sort(names)
        assert.same({ "Content-Length", "X-Empty", "X-MiXed-Case", "set-cookie" }, names)
    end)

    it("that are repeated are arrays in order", function()
        assert.same({ "one", "two", "three" }, res.headers["Set-Cookie"])
    end)

    it("are assigned to and removed in any letter case", function()
        res.headers["x_mixed_case"] = "b"
        res.headers["X-EMPTY"] = nil
        res.headers["X-New"] = "c"
        assert.equals("b", res.headers["X-MiXed-Case"])
        assert.is_nil(res.headers["X-Empty"])
        assert.equals("c", res.headers["x-new"])
        assert.is_nil(rawget(res.headers, "x_mixed_case"))
    end)

    it("are encoded as JSON", function()
        local decoded = cjson.decode((cjson.encode(res.headers)))
        assert.same({ ["Content-Length"] = "0", ["X-MiXed-Case"] = "a", ["X-Empty"] = "",
                      ["set-cookie"] = { "one", "two", "three" } }, decoded)
    end)
end)


describe("a body", function()
    it("of a Content-Length is read whole", function()
        assert.equals("hello", response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            :read_body())
        assert.equals(1, httpc:set_keepalive())
    end)

    it("in chunks is read whole", function()
        assert.equals("hello world", response(CHUNKED
            .. "5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n"):read_body())
        assert.equals(1, httpc:set_keepalive())
    end)

    for kind, tls in pairs({ ["a plain connection"] = false, ["close_notify"] = {} }) do
        it("that ends with " .. kind .. " is read whole", function()
            connect_to({ peer.receive_until("\r\n\r\n"),
                         peer.send("HTTP/1.1 200 OK\r\n\r\n" .. ("x"):rep(100000)),
                         peer.send("the end"), peer.close() }, tls or nil)
            local res = assert(httpc:request({ path = "/" }))
            assert.equals(("x"):rep(100000) .. "the end", (res:read_body()))
            assert.same({ 2, "connection must be closed" }, { httpc:set_keepalive() })
        end)
    end

    it("of many megabytes is read whole", function()
        local big = nginx.upstream()
        httpc = http.new()
        assert(httpc:connect({ scheme = "http", host = "localhost", port = big.ports.plain }))
        local res = assert(httpc:request({ path = "/bytes?n=5000000" }))
        local body = res:read_body()
        assert.equals(5000000, #body)
        assert.is_true(body == ("0123456789abcdef"):rep(5000000 / 16))
        assert.equals(1, httpc:set_keepalive())
        big:stop()
    end)

    it("is empty where there can be none", function()
        for head, method in pairs({
            ["200 OK\r\nContent-Length: 5"] = "HEAD",
            ["200 OK\r\nTransfer-Encoding: chunked"] = "HEAD",
            ["204 No Content"] = "GET",
            ["304 Not Modified\r\nContent-Length: 5"] = "GET",
            ["200 OK\r\nContent-Length: 0"] = "GET",
        }) do
            local res = response_to({ method = method },  "HTTP/1.1 " .. head .. "\r\n\r\n")
            assert.equals(head:find("Length: 0") ~= nil, res.has_body)
            assert.same({ n = 1 }, pack(res.body_reader()))
            assert.same({ n = 1, "" }, pack(res:read_body()))
            assert.equals(1, httpc:set_keepalive())
            server:stop()
        end
        server = nil
    end)

    it("that ends early is no body, but an error of three values", function()
        for bytes, ending in pairs({
            ["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"] = peer.close(),
            [CHUNKED .. "9\r\nhello"] = peer.close(),
            [CHUNKED .. "5\r\nhello\r\n"] = peer.close(),
            ["HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhello"] = peer.reset(),
        }) do
            connect_to({ peer.receive_until("\r\n\r\n"), peer.send(bytes), ending })
            local res = assert(httpc:request({ path = "/" }))
            local values = pack(res:read_body())
            assert.equals(3, values.n)
            assert.same({ nil, "closed", "closed", "body" },
                        { values[1], values[2], values[3].code, values[3].stage })
            assert.is_nil((httpc:set_keepalive()))
            server:stop()
        end
        server = nil
    end)

    it("that TLS does not end is truncated, however it is framed", function()
        connect_to({ peer.receive_until("\r\n\r\n"), peer.send("HTTP/1.1 200 OK\r\n\r\nhello"),
                     peer.cut() }, {})
        local res = assert(httpc:request({ path = "/" }))
        local body, err, details = res:read_body()
        assert.is_nil(body)
        assert.equals("closed", err)
        assert.equals("closed", details.code)
    end)

    it("is at an end for a later request", function()
        connect_to({ peer.receive_until("\r\n\r\n"),
                     peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none"),
                     peer.receive_until("\r\n\r\n"),
                     peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo"), peer.hang() })
        local first = assert(httpc:request({ path = "/1" }))
        local second = assert(httpc:request({ path = "/2" }))
        assert.is_nil((first:read_body()))
        assert.equals("two", second:read_body())
    end)
end)


describe("a body reader", function()
    it("gives no more than it is asked for, and nil at the end", function()
        local res = response("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")
        assert.same({ "0123", "4567", "89" }, read_parts(res, 4))
    end)

    it("gives the whole body of a Content-Length without a size", function()
        local body = ("x"):rep(100000)
        local res = response("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" .. body)
        assert.same({ body }, read_parts(res))
    end)

    it("gives the chunks of the wire without a size", function()
        assert.same({ "hello", " ", "world" }, read_parts(response(
            CHUNKED .. "5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n")))
    end)

    it("gives parts of chunks with a size", function()
        local parts = read_parts(response(CHUNKED
            .. "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n"), 3)
        assert.equals("hello, world", table.concat(parts))
        for _, part in ipairs(parts) do
            assert.is_true(#part >= 1 and #part <= 3)
        end
    end)

    it("gives a chunk before the next one has been sent", function()
        connect_to({ peer.receive_until("\r\n\r\n"), peer.send(CHUNKED .. "6\r\ndata:1\r\n"),
                     peer.pause(), peer.send("6\r\ndata:2\r\n0\r\n\r\n"), peer.hang() })
        local res = assert(httpc:request({ path = "/events" }))
        assert.equals("data:1", res.body_reader())
        server:resume()
        assert.equals("data:2", res.body_reader())
        assert.same({ n = 1 }, pack(res.body_reader()))
    end)

    it("reads a body to the end of the connection", function()
        connect_to({ peer.receive_until("\r\n\r\n"), peer.send("HTTP/1.0 200 OK\r\n\r\n12345"),
                     peer.close() })
        local parts = read_parts(assert(httpc:request({ path = "/" })), 2)
        assert.same({ "12", "34", "5" }, parts)
    end)

    it("gives what came before the error, and then the error", function()
        connect_to({ peer.receive_until("\r\n\r\n"),
                     peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"),
                     peer.close() })
        local res = assert(httpc:request({ path = "/" }))
        assert.equals("he", res.body_reader(2))
        assert.equals("llo", res.body_reader(100))
        local values = pack(res.body_reader(100))
        assert.equals(3, values.n)
        assert.same({ "closed", "closed", "body" },
                    { values[2], values[3].code, values[3].stage })
    end)

    it("and read_body share one body", function()
        local res = response("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789")
        assert.equals("012", res.body_reader(3))
        assert.equals("3456789", res:read_body())
        assert.same({ n = 1 }, pack(res.body_reader()))
    end)
end)


describe("an HTTP/1.0 server", function()
    it("ends the connection unless it says otherwise", function()
        local res = response_to({ version = 1.0 },
                                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        assert.equals("hi", res:read_body())
        assert.same({ 2, "connection must be closed" }, { httpc:set_keepalive() })
    end)

    it("may keep the connection", function()
        local res = response_to({ version = 1.0 }, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n"
            .. "Connection: Keep-Alive\r\n\r\nhi")
        assert.equals("hi", res:read_body())
        assert.same({ n = 1, 1 }, pack(httpc:set_keepalive()))
    end)
end)
