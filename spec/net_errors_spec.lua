local call = require("spec.support.call")
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local ports = require("spec.support.ports")

local GOOD = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


-- What holds for every error, and where and why this one came about.
local function assert_failed(outcome, at, code, stage)
    assert.equals(at, outcome.at)
    assert.equals("string", outcome.err_type)
    assert.equals(code, outcome.details.code, outcome.err)
    assert.equals(stage, outcome.details.stage, outcome.err)
    assert.equals("string", type(outcome.details.hint))
    assert.is_nil(outcome.details.alert)
end


local function plainly(server, request)
    return { scheme = "http", host = "localhost", port = server.port, request = request }
end


describe("a server that cannot be reached", function()
    local gateway

    setup(function() gateway = nginx.gateway() end)

    teardown(function() gateway:stop() end)

    local function both(options)
        return ipairs({ call.make(options), call.inside(gateway, options, "access") })
    end

    it("gives connect_refused where nothing listens", function()
        local port = ports.free()
        for _, scheme in ipairs({ "http", "https" }) do
            for _, host in ipairs({ "127.0.0.1", "localhost" }) do
                for _, outcome in both({ scheme = scheme, host = host, port = port }) do
                    assert_failed(outcome, "connect", "connect_refused", "connect")
                    assert.matches("connection refused", outcome.err, 1, true)
                    assert.matches(":" .. port, outcome.err, 1, true)
                end
            end
        end
    end)

    it("gives connect_refused for a unix socket that nobody listens on", function()
        local server = peer.start({ socket = true })
        server:stop()
        assert.is_true(fs.exists(server.path))
        for _, outcome in both({ host = "unix:" .. server.path }) do
            assert_failed(outcome, "connect", "connect_refused", "connect")
            assert.matches("connection refused", outcome.err, 1, true)
        end
    end)

    it("gives connect_failed for a unix socket that does not exist", function()
        for _, outcome in both({ host = "unix:" .. fs.temp_dir("none") .. "/socket" }) do
            assert_failed(outcome, "connect", "connect_failed", "connect")
            assert.matches("No such file", outcome.err)
        end
    end)

    it("gives dns_failed for a name that does not exist", function()
        -- The first is reserved for this (RFC 6761); of the second no name server is even asked.
        for _, host in ipairs({ "nosuch.invalid", ("a"):rep(64) .. ".test" }) do
            for _, scheme in ipairs({ "http", "https" }) do
                for _, outcome in both({ scheme = scheme, host = host,
                                         ssl_server_name = "localhost" }) do
                    assert_failed(outcome, "connect", "dns_failed", "resolve")
                    assert.matches("failed to parse domain", outcome.err, 1, true)
                    assert.matches(host, outcome.err, 1, true)
                end
            end
        end
    end)
end)


describe("a server that closes", function()
    local request = peer.receive_until("\r\n\r\n")

    for name, script in pairs({
        ["at once"] = { peer.close() },
        ["before the head"] = { request },
        ["with a reset before the head"] = { request, peer.reset() },
        ["within the head"] = { request, peer.send("HTTP/1.1 200 OK\r\nServer: x\r\n") },
    }) do
        it(name .. " gives closed", function()
            local server = peer.start({ script = script })
            local outcome = call.make(plainly(server))
            server:stop()
            assert_failed(outcome, "request", "closed", "response")
            assert.equals("closed", outcome.err)
            assert.matches("server closed", outcome.details.hint)
        end)
    end

    it("within the body gives closed in read_body", function()
        local server = peer.start({ script = { request, peer.send((GOOD:gsub("hi", "h"))) } })
        local outcome = call.make(plainly(server))
        server:stop()
        assert_failed(outcome, "body", "closed", "body")
        assert.equals("closed", outcome.err)
    end)
end)


describe("a client without a connection", function()
    it("gives closed", function()
        for _, method in ipairs({ "request", "send_request", "read_response" }) do
            local httpc = http.new()
            local ok, err, details = httpc[method](httpc, { path = "/" })
            assert.is_nil(ok)
            assert.equals("closed", err, method)
            assert.equals("closed", details.code)
            assert.matches("connect", details.hint)
        end
        for _, method in ipairs({ "close", "set_keepalive", "get_reused_times" }) do
            local ok, err = http.new()[method](http.new())
            assert.is_nil(ok)
            assert.equals("closed", err, method)
        end
    end)
end)


describe("a response that is not HTTP/1", function()
    local version = "^couldn't parse HTTP version from response status line: "
    local status = "^couldn't parse status code from response status line: "
    local other = "^malformed response: "
    for name, case in pairs({
        ["without a status line"] = { "hello\r\n\r\n", version .. "hello$" },
        ["of another protocol"] = { "SSH-2.0\r\n\r\n", version .. "SSH%-2.0$" },
        ["with a status that is no number"] = { "HTTP/1.1 OK 200\r\n\r\n",
                                                status .. "HTTP/1.1 OK 200$" },
        ["with a header line without a colon"] =
            { "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", other },
        ["with a length in hexadecimal"] =
            { "HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nhi", other },
        ["with two lengths"] =
            { "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi", other },
    }) do
        it(name .. " gives http_malformed", function()
            local server = peer.start({ script = {
                peer.receive_until("\r\n\r\n"), peer.send(case[1]), peer.receive_to_end(),
            } })
            local outcome = call.make(plainly(server))
            server:stop()
            assert_failed(outcome, "request", "http_malformed", "response")
            assert.matches(case[2], outcome.err)
        end)
    end
end)


describe("connect", function()
    it("refuses what is no host, port, scheme or pool, and names it", function()
        local base = { scheme = "http", host = "localhost", port = 80 }
        for name, values in pairs({
            host = { "", 42, true, {} },
            port = { 0, -1, 65536, 1.5, 0 / 0, math.huge, "abc", "", true, {} },
            scheme = { "ftp", "", 42, false },
            pool = { 42, {} },
        }) do
            for _, value in ipairs(values) do
                local options = { scheme = base.scheme, host = base.host, port = base.port }
                options[name] = value
                local outcome = call.make(options)
                assert_failed(outcome, "connect", "bad_argument", "options")
                assert.matches("'" .. name .. "'", outcome.err, 1, true)
            end
        end
        assert.matches("'host'", call.make({ scheme = "http" }).err, 1, true)
    end)

    it("refuses a host with characters that no name has, and names it", function()
        for _, host in ipairs({ "a b", "a\r\nX: y", "a\0b", "a/b", "user@localhost" }) do
            for _, scheme in ipairs({ "http", "https" }) do
                local outcome = call.make({ scheme = scheme, host = host, port = 80 })
                assert_failed(outcome, "connect", "bad_argument", "options")
                assert.matches("'host'", outcome.err, 1, true)
            end
        end
    end)

    it("wants a scheme", function()
        for _, options in ipairs({ { host = "localhost", port = 80 }, { host = "localhost" } }) do
            local outcome = call.make(options)
            assert_failed(outcome, "connect", "bad_argument", "options")
            assert.matches("'scheme' is required", outcome.err, 1, true)
        end
    end)

    it("takes a port in digits", function()
        local outcome = call.make({ scheme = "http", host = "127.0.0.1",
                                    port = tostring(ports.free()) })
        assert.equals("connect_refused", outcome.details.code)
    end)
end)


describe("a request that cannot be written", function()
    local server

    -- Nothing of it was sent: the server gets the good request behind it and no more.
    local function assert_refused(request, phrase)
        local seen = server:connections()
        local httpc = http.new()
        httpc:set_timeout(5000)
        assert(httpc:connect(plainly(server)))
        local ok, res, err, details = pcall(httpc.request, httpc, request)
        assert.is_true(ok, res)
        assert.is_nil(res)
        assert_failed({ at = "request", err = err, err_type = type(err), details = details },
                      "request", "bad_argument", "options")
        assert.matches(phrase, err, 1, true)

        assert.equals(200, assert(httpc:request({ path = "/good" })).status)
        httpc:close()
        assert.matches("^GET /good HTTP/1.1\r\n", server:received(seen + 1))
    end

    setup(function()
        server = peer.start({ script = {
            peer.receive_until("\r\n\r\n"), peer.send(GOOD), peer.receive_to_end(),
        } })
    end)

    teardown(function() server:stop() end)

    it("has a version that we do not speak", function()
        for _, version in ipairs({ 2, 0.9, 3, "x", true }) do
            assert_refused({ version = version }, "version")
        end
    end)

    it("has a method that is none", function()
        for _, method in ipairs({ "GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "GET\n", "G ET", "", {},
                                  true }) do
            assert_refused({ method = method }, "method")
        end
    end)

    it("has characters in its path that none may have", function()
        for _, path in ipairs({ "/a\r\nX: y", "/a b", "/a\0", "/a\n", "/\127" }) do
            assert_refused({ path = path }, "invalid characters found in path")
        end
        assert_refused({ path = {} }, "path")
    end)

    it("has characters in its query that none may have", function()
        for _, query in ipairs({ "a=b\r\nX: y", "a b", "a\0" }) do
            assert_refused({ query = query }, "invalid characters found in query")
        end
    end)

    it("has a header name that is none", function()
        for _, name in ipairs({ "X\r\nY", "X: y", "X y", "X\0", "", "X:" }) do
            assert_refused({ headers = { [name] = "z" } }, "invalid characters found in header key")
        end
    end)

    it("has characters in a header value that none may have", function()
        for _, value in ipairs({ "a\r\nY: z", "a\nb", "a\rb", "a\0" }) do
            assert_refused({ headers = { X = value } }, "invalid characters found in header value")
            assert_refused({ headers = { X = { "a", value } } },
                           "invalid characters found in header value")
        end
        assert_refused({ headers = "X: y" }, "headers")
    end)

    it("has no table of parameters", function()
        for _, params in ipairs({ "x", 42, true }) do
            assert_refused(params, "table")
        end
    end)
end)


describe("request_uri", function()
    it("refuses what is no URI, and parameters that are no table", function()
        for _, case in ipairs({ { nil, nil }, { 42, nil }, { "ftp://x/", nil }, { "http:///", nil },
                                { "nonsense", nil }, { "http://localhost/", "x" } }) do
            local httpc = http.new()
            local ok, res, err, details = pcall(httpc.request_uri, httpc, case[1], case[2])
            assert.is_true(ok, res)
            assert.is_nil(res)
            assert_failed({ at = "uri", err = err, err_type = type(err), details = details },
                          "uri", "bad_argument", "options")
        end
    end)
end)


describe("a phase of nginx that cannot wait", function()
    local gateway, server

    setup(function()
        gateway = nginx.gateway()
        server = nginx.upstream({ verify = "off" })
    end)

    teardown(function()
        gateway:stop()
        server:stop()
    end)

    for _, phase in ipairs({ "set", "header_filter", "body_filter", "log", "balancer" }) do
        it("gives api_disabled (" .. phase .. ")", function()
            for _, scheme in ipairs({ "http", "https" }) do
                local outcome = call.inside(gateway, {
                    scheme = scheme, host = "localhost",
                    port = scheme == "http" and server.ports.plain or server.port,
                    ssl_trusted_certificate = scheme == "https" and certs.path("ca.crt") or nil,
                }, phase)
                assert_failed(outcome, "connect", "api_disabled", "options")
                assert.equals("API disabled in the context of " .. phase .. "_by_lua*",
                              outcome.err)
                assert.matches("ngx.timer.at", outcome.details.hint, 1, true)
            end
        end)

        it("gives api_disabled to request_uri (" .. phase .. ")", function()
            local output = gateway:run([[
                local res, err, details = require("resty.mtls.http").new():request_uri(
                    "http://localhost:${up}/echo")
                return res, err, details.code
            ]], { phase = phase, vars = { up = server.ports.plain } })
            assert.equals("nil\tAPI disabled in the context of " .. phase
                .. "_by_lua*\tapi_disabled\n", output)
        end)
    end
end)
