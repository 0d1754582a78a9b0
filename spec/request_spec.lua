local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local upstream = require("spec.support.nginx.upstream")

local EMPTY = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


-- A server that receives up to the end of `last` and gives an empty answer, on each connection.
local function recorder(last)
    return peer.start({ script = { peer.receive_until(last or "\r\n\r\n"), peer.send(EMPTY),
                                   peer.hang() } })
end


local function connected(port, options)
    local httpc = http.new()
    local given = { scheme = "http", host = "127.0.0.1", port = port }
    for name, value in pairs(options or {}) do
        given[name] = value
    end
    assert(httpc:connect(given))
    return httpc
end


-- What a server gets when `params` are requested.
local function wire_of(params, last)
    local server = recorder(last)
    local httpc = connected(server.port)
    local res, err = httpc:request(params)
    local received = server:received(1)
    httpc:close()
    server:stop()
    assert(res, err)
    return received, server.port
end


local function pack(...)
    return { n = select("#", ...), ... }
end


describe("a connection", function()
    local server

    setup(function() server = nginx.upstream() end)

    teardown(function() server:stop() end)

    local function echo(options)
        local httpc = http.new()
        assert(httpc:connect(options))
        local res = assert(httpc:request({ path = "/echo",
                                           headers = { Host = "target.server" } }))
        assert.equals(200, res.status)
        assert.equals(1, httpc:close())
        return upstream.parse(res:read_body())
    end

    local function over_tls(options)
        options.scheme = "https"
        options.ssl_cert, options.ssl_key = certs.read("client-b.crt"), certs.read("client-b.key")
        options.ssl_trusted_certificate = certs.path("ca.crt")
        return options
    end

    it("is made over TCP", function()
        local seen = echo({ scheme = "http", host = "127.0.0.1", port = server.ports.plain })
        assert.equals("target.server", seen.host)
        assert.equals("", seen.protocol)
    end)

    it("takes a port in digits", function()
        echo({ scheme = "http", host = "localhost", port = tostring(server.ports.plain) })
    end)

    it("is made over TCP with TLS, with the host for SNI", function()
        local seen = echo(over_tls({ host = "localhost", port = server.port }))
        assert.equals("CN=client-b,O=Example", seen.subject)
        assert.equals("localhost", seen.server_name)
    end)

    it("is made over a unix socket, with and without a scheme", function()
        local host = "unix:" .. server.plain_socket
        assert.equals("1", echo({ scheme = "http", host = host }).connection_requests)
        assert.equals("1", echo({ host = host }).connection_requests)
    end)

    it("is made over a unix socket with TLS", function()
        local seen = echo(over_tls({ host = "unix:" .. server.tls_socket,
                                     ssl_server_name = "target.server" }))
        assert.equals("CN=client-b,O=Example", seen.subject)
        assert.equals("target.server", seen.server_name)
    end)

    it("ignores options that it does not know", function()
        echo({ scheme = "http", host = "127.0.0.1", port = server.ports.plain, path = "/",
               method = "GET", frobnicate = {} })
    end)

    it("is not made from options that make no sense", function()
        for expected, options in pairs({
            ["bad 'host'"] = { scheme = "http", port = 80 },
            ["bad 'scheme'"] = { scheme = "ftp", host = "localhost", port = 80 },
            ["bad 'port'"] = { scheme = "http", host = "localhost", port = 65536 },
            ["'scheme' is required"] = { host = "localhost", port = 80 },
        }) do
            local values = pack(http.new():connect(options))
            assert.equals(3, values.n)
            assert.is_nil(values[1])
            assert.matches(expected, values[2], 1, true)
            assert.equals("bad_argument", values[3].code)
            assert.equals("options", values[3].stage)
            assert.is_string(values[3].hint)
        end
    end)

    it("that nobody accepts is an error of three values", function()
        local closed = recorder()
        closed:stop()
        local values = pack(http.new():connect({ scheme = "http", host = "127.0.0.1",
                                                 port = closed.port }))
        assert.equals(3, values.n)
        assert.is_nil(values[1])
        assert.matches("^connection refused", values[2])
        assert.equals("connect_refused", values[3].code)
        assert.equals("connect", values[3].stage)
    end)
end)


describe("a request", function()
    it("has a method in capitals, and GET is the default", function()
        for _, method in ipairs({ "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
                                  "TRACE", "PURGE" }) do
            assert.matches("^" .. method .. " /x HTTP/1.1\r\n",
                           (wire_of({ method = method, path = "/x" })))
        end
        assert.matches("^POST / HTTP/1.1\r\n", (wire_of({ method = "post", path = "/" })))
        assert.matches("^GET / HTTP/1.1\r\n", (wire_of({})))
    end)

    it("has the headers as the caller spelled them", function()
        local wire = wire_of({ headers = {
            ["X-cUsTom_Name"] = "v", ["content-TYPE"] = "text/plain", ["X-Number"] = 12,
            ["x-List"] = { "one", "two" },
        } })
        for _, line in ipairs({ "X-cUsTom_Name: v", "content-TYPE: text/plain", "X-Number: 12",
                                "x-List: one\r\nx-List: two" }) do
            assert.matches("\r\n" .. line .. "\r\n", wire, 1, true)
        end
    end)

    it("has Host and User-Agent unless the caller gave them, in any letter case", function()
        local wire, port = wire_of({})
        assert.matches("\r\nHost: 127.0.0.1:" .. port .. "\r\n", wire, 1, true)
        assert.matches("\r\nUser-Agent: " .. http._USER_AGENT .. "\r\n", wire, 1, true)

        wire = wire_of({ headers = { host = "example.org", ["user-agent"] = "mine" } })
        assert.matches("\r\nhost: example.org\r\n", wire, 1, true)
        assert.matches("\r\nuser-agent: mine\r\n", wire, 1, true)
        assert.not_matches("Host:", wire, 1, true)
        assert.not_matches("User-Agent:", wire, 1, true)

        wire = wire_of({ use_default_user_agent = false })
        assert.not_matches("user-agent", wire:lower(), 1, true)
    end)

    it("has a query from a string or a table", function()
        assert.matches("^GET /p%?a=1&b HTTP", (wire_of({ path = "/p", query = "a=1&b" })))
        assert.matches("^GET /p%?a=1 HTTP", (wire_of({ path = "/p", query = "?a=1" })))
        assert.matches("^GET /p%?a%%20b=%%26%%3D HTTP",
                       (wire_of({ path = "/p", query = { ["a b"] = "&=" } })))
        assert.matches("^GET /p%?k=1&k=2 HTTP", (wire_of({ path = "/p",
                                                           query = { k = { 1, 2 } } })))
        assert.matches("^GET /p HTTP", (wire_of({ path = "/p", query = {} })))
    end)

    it("has a body from a string or a table, with its length", function()
        for _, body in ipairs({ "hello END", { "hel", "lo", " ", "END" } }) do
            local wire = wire_of({ method = "POST", body = body }, "END")
            assert.matches("\r\nContent-Length: 9\r\n", wire, 1, true)
            assert.matches("\r\n\r\nhello END$", wire)
        end
    end)

    it("without a body says so where a body is expected", function()
        for _, method in ipairs({ "POST", "PUT", "PATCH" }) do
            assert.matches("\r\nContent-Length: 0\r\n", (wire_of({ method = method })), 1, true)
        end
        for _, method in ipairs({ "GET", "HEAD", "DELETE" }) do
            assert.not_matches("Content-Length", (wire_of({ method = method })), 1, true)
        end
    end)

    it("brings a large body over whole", function()
        local server = nginx.upstream()
        local httpc = connected(server.ports.plain)
        local body = ("0123456789"):rep(300000)
        local res = assert(httpc:request({ method = "POST", path = "/body", body = body }))
        assert.is_true(res:read_body() == body)
        httpc:close()
        server:stop()
    end)

    it("in HTTP/1.0 asks for the connection to be kept", function()
        local wire = wire_of({ version = 1.0 })
        assert.matches("^GET / HTTP/1.0\r\n", wire)
        assert.matches("\r\nConnection: Keep-Alive\r\n", wire, 1, true)
    end)

    it("is taken by value", function()
        local headers, params = { ["X-One"] = "1" }, { method = "POST", body = { "a" } }
        params.headers = headers
        wire_of(params, "a")
        assert.same({ method = "POST", body = { "a" }, headers = headers }, params)
        assert.same({ ["X-One"] = "1" }, headers)
    end)

    it("that could be read as more than it is never leaves", function()
        local server = recorder()
        local httpc = connected(server.port)
        for expected, params in pairs({
            ["invalid characters found in path"] = { path = "/a b" },
            ["invalid characters found in query"] = { query = "a\r\nb" },
            ["invalid characters found in header key"] = { headers = { ["a:b"] = "c" } },
            ["invalid characters found in header value"] = { headers = { a = "b\r\nc: d" } },
            ["invalid characters found in method"] = { method = "GET / HTTP/1.1\r\nX:" },
            ["bad 'version'"] = { version = 2 },
        }) do
            local values = pack(httpc:request(params))
            assert.equals(3, values.n)
            assert.is_nil(values[1])
            assert.matches(expected, values[2], 1, true)
            assert.equals("bad_argument", values[3].code)
        end
        assert(httpc:request({ path = "/good" }))
        assert.matches("^GET /good ", server:received(1))
        httpc:close()
        server:stop()
    end)

    it("without a connection is an error of three values", function()
        local values = pack(http.new():request({ path = "/" }))
        assert.equals(3, values.n)
        assert.same({ "closed", "closed", "send" },
                    { values[2], values[3].code, values[3].stage })
    end)

    it("over a unix socket needs a Host", function()
        local server = peer.start({ socket = true, script = { peer.hang() } })
        local httpc = http.new()
        assert(httpc:connect({ host = "unix:" .. server.path }))
        local res, err = httpc:request({ path = "/" })
        assert.is_nil(res)
        assert.matches("Unable to generate a useful Host header", err, 1, true)
        httpc:close()
        server:stop()
    end)
end)


describe("sending and receiving apart", function()
    it("is the same as a request", function()
        local server = peer.start({ script = {
            peer.receive_until("\r\n\r\nping"),
            peer.send("HTTP/1.1 201 Made\r\nContent-Length: 4\r\n\r\npong"), peer.hang(),
        } })
        local httpc = connected(server.port)
        local params = { method = "PUT", path = "/thing", body = "ping" }
        assert.same({ n = 1, true }, pack(httpc:send_request(params)))
        local values = pack(httpc:read_response(params))
        assert.equals(1, values.n)
        assert.equals(201, values[1].status)
        assert.equals("pong", values[1]:read_body())
        assert.matches("^PUT /thing HTTP/1.1\r\n", server:received(1))
        assert.equals(1, httpc:set_keepalive())
        server:stop()
    end)
end)
