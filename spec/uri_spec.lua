local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local system = require("system")
local upstream = require("spec.support.nginx.upstream")


local function pack(...)
    return { n = select("#", ...), ... }
end


describe("request_uri", function()
    local server, base

    setup(function()
        server = nginx.upstream()
        base = "http://127.0.0.1:" .. server.ports.plain
    end)

    teardown(function() server:stop() end)

    -- With a pool of its own, so that no connection comes from another test.
    local function params(name, more)
        local given = { pool = name }
        for option, value in pairs(more or {}) do
            given[option] = value
        end
        return given
    end

    local function echo(uri, more)
        local res = assert(http.new():request_uri(uri, more))
        return upstream.parse(res.body)
    end

    it("gives one response with a body that can be read again", function()
        local values = pack(http.new():request_uri(base .. "/bytes?n=100000", params("body")))
        assert.equals(1, values.n)
        local res = values[1]
        assert.equals(200, res.status)
        assert.equals(100000, #res.body)
        assert.equals("100000", res.headers["content-length"])
        assert.same({ n = 1, res.body }, pack(res:read_body()))
        assert.equals(res.body, res:read_body())
    end)

    it("gives an empty body to HEAD", function()
        local res = assert(http.new():request_uri(base .. "/echo", params("h", {
            method = "HEAD",
        })))
        assert.equals("", res.body)
    end)

    it("requests the path and query of the URI, and / without a path", function()
        assert.equals("/echo/a?b=c&d", echo(base .. "/echo/a?b=c&d", params("path")).uri)
        assert.equals("/echo", echo(base .. "/echo?", params("path")).uri)
        local res = assert(http.new():request_uri(base, params("path")))
        assert.equals(404, res.status)
    end)

    it("prefers path and query of the parameters", function()
        assert.equals("/echo?x=1", echo(base .. "/other?b=c", params("p", {
            path = "/echo", query = { x = 1 },
        })).uri)
        assert.equals("/echo?b=c", echo(base .. "/other?b=c", params("p", {
            path = "/echo",
        })).uri)
    end)

    it("takes parameters of the request and options of the connection alike", function()
        local seen = echo("https://127.0.0.1:" .. server.port .. "/echo", {
            method = "DELETE", headers = { Host = "target.server" },
            ssl_server_name = "target.server", ssl_trusted_certificate = certs.path("ca.crt"),
            ssl_cert = certs.read("client-a.crt"), ssl_key = certs.read("client-a.key"),
        })
        assert.equals("DELETE", seen.method)
        assert.equals("target.server", seen.host)
        assert.equals("target.server", seen.server_name)
        assert.equals("CN=client-a,O=Example", seen.subject)
    end)

    it("does not change its parameters", function()
        local given = { pool = "same", method = "POST", body = "x" }
        assert(http.new():request_uri(base .. "/body?a=b", given))
        assert.same({ pool = "same", method = "POST", body = "x" }, given)
    end)

    it("keeps the connection", function()
        local options = params("keeps")
        assert.equals("1", echo(base .. "/echo", options).connection_requests)
        assert.equals("2", echo(base .. "/echo", options).connection_requests)
        options.keepalive = true
        assert.equals("3", echo(base .. "/echo", options).connection_requests)
    end)

    it("closes the connection with keepalive = false", function()
        local options = params("closes", { keepalive = false })
        assert.equals("1", echo(base .. "/echo", options).connection_requests)
        assert.equals("1", echo(base .. "/echo", options).connection_requests)
        local httpc = http.new()
        assert(httpc:request_uri(base .. "/echo", options))
        local closed, err = httpc:close()
        assert.is_nil(closed)
        assert.equals("closed", err)
    end)

    it("keeps a connection for no longer than keepalive_timeout", function()
        local options = params("short", { keepalive_timeout = 20 })
        assert.equals("1", echo(base .. "/echo", options).connection_requests)
        system.sleep(0.03)
        assert.equals("1", echo(base .. "/echo", options).connection_requests)
    end)

    it("keeps no more connections than keepalive_pool", function()
        local options = params("few", { keepalive_pool = 1 })
        local first, second = http.new(), http.new()
        local target = { scheme = "http", host = "127.0.0.1", port = server.ports.plain,
                         pool = "few" }
        assert(first:connect(target))
        assert(second:connect(target))
        assert.equals(1, first:set_keepalive(60000, 2))
        assert.equals(1, second:set_keepalive(60000, 2))
        assert(http.new():request_uri(base .. "/echo", options))
        local third, fourth = http.new(), http.new()
        assert(third:connect(target))
        assert(fourth:connect(target))
        assert.equals(2, third:get_reused_times())
        assert.equals(0, fourth:get_reused_times())
        third:close()
        fourth:close()
    end)

    it("that fails gives three values and closes", function()
        local silent = peer.start({ script = { peer.receive_until("\r\n\r\n"), peer.close() } })
        local uri = "http://127.0.0.1:" .. silent.port
        for expected, case in pairs({
            bad_argument = { "gopher://x/" },
            closed = { uri .. "/" },
            connect_refused = { "http://127.0.0.1:1/" },
        }) do
            local httpc = http.new()
            local values = pack(httpc:request_uri(case[1]))
            assert.equals(3, values.n)
            assert.is_nil(values[1])
            assert.is_string(values[2])
            assert.equals(expected, values[3].code)
            assert.is_nil((httpc:close()))
        end
        silent:stop()
    end)

    it("of a truncated body fails and closes", function()
        local rude = peer.start({ script = {
            peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"), peer.close(),
        } })
        local values = pack(http.new():request_uri("http://127.0.0.1:" .. rude.port .. "/"))
        assert.equals(3, values.n)
        assert.same({ nil, "closed", "body" }, { values[1], values[2], values[3].stage })
        rude:stop()
    end)
end)


describe("parse_uri", function()
    local function parsed(uri, query_in_path)
        local values = pack(http:parse_uri(uri, query_in_path))
        assert.equals(1, values.n)
        return values[1]
    end

    it("leaves the query in the path unless it is told not to", function()
        for _, query_in_path in ipairs({ "absent", true }) do
            local given = query_in_path ~= "absent" and query_in_path or nil
            local parts = parsed("http://example.com/foo?a=1&b=?", given)
            assert.same({ "http", "example.com", 80, "/foo?a=1&b=?" }, parts)
            assert.is_nil(parts[5])
        end
        assert.same({ "http", "example.com", 80, "/foo", "a=1&b=?" },
                    parsed("http://example.com/foo?a=1&b=?", false))
    end)

    it("is a method of clients and of the module, and needs neither", function()
        local expected = { "https", "example.com", 443, "/a?b" }
        assert.same(expected, http:parse_uri("https://example.com/a?b"))
        assert.same(expected, http.new():parse_uri("https://example.com/a?b"))
        assert.same(expected, http.parse_uri(nil, "https://example.com/a?b"))
    end)

    it("knows the ports of the schemes", function()
        assert.equals(80, parsed("http://example.com/")[3])
        assert.equals(443, parsed("https://example.com/")[3])
        assert.equals(8443, parsed("https://example.com:8443/")[3])
        assert.equals("number", type(parsed("https://example.com:8443/")[3]))
    end)

    it("gives / where there is no path", function()
        assert.same({ "http", "example.com", 80, "/", "" }, parsed("http://example.com", false))
        assert.equals("/?a=b", parsed("http://example.com?a=b")[4])
        assert.same({ "http", "example.com", 81, "/", "a=b" },
                    parsed("http://example.com:81?a=b", false))
    end)

    it("knows IPv6 addresses", function()
        assert.same({ "http", "[::1]", 80, "/", "" }, parsed("http://[::1]", false))
        assert.same({ "https", "[2001:db8::1]", 8443, "/x", "" },
                    parsed("https://[2001:db8::1]:8443/x"))
        assert.same({ "http", "[fe80::1%eth0]", 80, "/", "" }, parsed("http://[fe80::1%eth0]/"))
        for _, host in ipairs({ "[#example.com]", "[/]", "[?]", "[ ]", "[\r\n]", "[]", "[%]",
                                "[::1%]", "[example.com]" }) do
            assert.is_nil((http:parse_uri("http://" .. host .. "/")))
        end
    end)

    it("refuses what is no http URI", function()
        for _, uri in ipairs({ "", "example.com/", "ftp://example.com/", "http://",
                               "http:///path", "unix:/tmp/socket", "http://[::1/",
                               "http://example.com:99999/" }) do
            local values = pack(http:parse_uri(uri))
            assert.equals(2, values.n)
            assert.is_nil(values[1])
            assert.equals("bad uri: " .. uri, values[2])
        end
        assert.is_nil((http:parse_uri(nil)))
    end)

    it("takes the scheme of the current request where there is one", function()
        local parse = [[
            local parts, err = require("resty.mtls.http"):parse_uri("//example.com/a")
            return parts and table.concat(parts, " ", 1, 4) or err
        ]]
        local gateway = nginx.gateway()
        assert.equals("http example.com 80 /a\n", gateway:run(parse, { phase = "access" }))
        assert.matches("^schemaless URIs require a request context",
                       gateway:run(parse, { phase = "timer" }))
        gateway:stop()
        assert.is_nil((http:parse_uri("//example.com/a")))
    end)
end)
