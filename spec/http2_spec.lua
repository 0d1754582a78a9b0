local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local httpd = require("spec.support.httpd")
local nghttpd = require("spec.support.nghttpd")
local nginx = require("spec.support.nginx")
local squid = require("spec.support.squid")
local upstream_of = require("spec.support.nginx.upstream")

local upstream, servers, plain

-- What the server was told of a connection that it is not to know of.
local SEEN = [[
    location /seen {
        set $seen "connection: $http_connection\nupgrade: $http_upgrade\nte: $http_te\n";
        set $last "xcase: $http_x_case\n";
        set $more "expect: $http_expect\ncookie: $http_cookie\nhost: $http_host\n";
        return 200 "$seen$more$last";
    }
    location /large { add_header X-Large $arg_v; return 200 "ok"; }
    location /none { return 204; }
]]


setup(function()
    upstream = nginx.upstream({ listen = "http2", server = SEEN })
    plain = nghttpd.start({ files = { echo = "hello" },
                            args = { "--trailer", "x-sum: 42", "-w", "16" } })
    servers = {
        nginx = upstream,
        httpd = httpd.start({ http2 = true }),
        nghttpd = nghttpd.start({ tls = true, files = { echo = "hello" }, args = { "-V" } }),
    }
end)

teardown(function()
    for _, server in pairs(servers) do
        server:stop()
    end
    plain:stop()
end)


local function options(server, more)
    local given = {
        scheme = "https", host = "localhost", port = server.port, http_version = 2,
        ssl_trusted_certificate = certs.path("ca.crt"),
        ssl_cert_path = certs.path("client-a.crt"), ssl_key_path = certs.path("client-a.key"),
    }
    for name, value in pairs(more or {}) do
        given[name] = value
    end
    return given
end


local function client()
    local httpc = http.new()
    httpc:set_timeout(10000)
    return httpc
end


local function connected(server, more)
    local httpc = client()
    assert(httpc:connect(options(server, more)))
    return httpc
end


local function plain_options()
    return { scheme = "http", host = "localhost", port = plain.port, http_version = 2 }
end


local function connected_plain()
    local httpc = client()
    assert(httpc:connect(plain_options()))
    return httpc
end


local function fetch(httpc, params)
    local res = assert(httpc:request(params))
    return assert(res:read_body()), res
end


describe("HTTP/2", function()
    for _, name in ipairs({ "nginx", "httpd", "nghttpd" }) do
        it("is spoken with " .. name .. ", as the identity that was given", function()
            local httpc = connected(servers[name])
            local body, res = fetch(httpc, { path = "/echo" })
            assert.equals(200, res.status)
            assert.equals("OK", res.reason)
            local info = assert(httpc:get_ssl_info())
            assert.equals("h2", info.alpn)
            assert.matches("client-a", info.identity.subject, 1, true)
            if name == "nginx" then
                local seen = upstream_of.parse(body)
                assert.equals("HTTP/2.0", seen.http)
                assert.equals("CN=client-a,O=Example", seen.subject)
            elseif name == "httpd" then
                assert.equals("CN=client-a,O=Example", res.headers["X-Subject"])
            end
            assert.equals(1, httpc:set_keepalive())
        end)
    end

    it("is not spoken unless asked for", function()
        local httpc = connected(upstream, { http_version = 1.1 })
        assert.equals("HTTP/1.1", upstream_of.parse(fetch(httpc, { path = "/echo" })).http)
        httpc:close()
        assert(httpc:connect(options(upstream, { http_version = nil })))
        httpc:close()
    end)

    it("is what the server prefers, or is not, with auto", function()
        local httpc = connected(upstream, { http_version = "auto" })
        assert.equals("HTTP/2.0", upstream_of.parse(fetch(httpc, { path = "/echo" })).http)
        assert.equals(1, httpc:set_keepalive())
        local other = nginx.upstream()
        for reused = 0, 1 do
            httpc = connected(other, { http_version = "auto" })
            assert.equals(reused, httpc:get_reused_times())
            assert.equals("HTTP/1.1", upstream_of.parse(fetch(httpc, { path = "/echo" })).http)
            assert.equals(1, httpc:set_keepalive())
        end
        other:stop()
    end)

    it("is told of when the server does not speak it", function()
        local http1 = { nginx = nginx.upstream(), httpd = httpd.start() }
        for _, server in pairs(http1) do
            local ok, err, details = client():connect(options(server))
            assert.is_nil(ok)
            assert.matches("the server does not speak HTTP/2", err, 1, true)
            assert.equals("http2_unsupported", details.code)
            assert.equals("tls", details.stage)
            assert.matches("http2 on", details.hint, 1, true)
        end
        local _, _, details = client():connect({
            scheme = "http", host = "localhost", port = http1.nginx.ports.plain, http_version = 2,
        })
        assert.equals("http2_unsupported", details.code)
        for _, server in pairs(http1) do
            server:stop()
        end
    end)

    it("has no other version", function()
        for _, version in ipairs({ 1, 3, "2", "h2", true }) do
            local ok, _, details = client():connect(options(upstream, { http_version = version }))
            assert.is_nil(ok)
            assert.equals("bad_argument", details.code)
        end
    end)

    it("goes through a proxy's tunnel, and through no other proxy", function()
        local proxy = squid.start()
        local through = { proxy_opts = { https_proxy = proxy:uri("open"),
                                         http_proxy = proxy:uri("open") } }
        local httpc = connected(upstream, through)
        assert.equals("HTTP/2.0", upstream_of.parse(fetch(httpc, { path = "/echo" })).http)
        httpc:close()
        local given = plain_options()
        given.proxy_opts = through.proxy_opts
        local _, err, details = client():connect(given)
        assert.equals("bad_argument", details.code)
        assert.matches("http_version", err, 1, true)
        proxy:stop()
    end)

    it("is known beforehand without TLS", function()
        local body, res = fetch(connected_plain(), { path = "/echo" })
        assert.equals("hello", body)
        assert.equals(200, res.status)
    end)
end)


describe("a request over HTTP/2", function()
    local function seen(params)
        params.path = "/seen"
        local httpc = connected(upstream)
        local fields = upstream_of.parse(fetch(httpc, params))
        httpc:close()
        return fields
    end

    it("has no fields that are about a connection", function()
        local fields = seen({ headers = {
            Connection = "keep-alive, X-Case", ["Keep-Alive"] = "1", ["Proxy-Connection"] = "close",
            ["Transfer-Encoding"] = "chunked", Upgrade = "websocket", TE = "gzip",
            Expect = "100-continue", ["X-Case"] = "1",
        } })
        for _, name in ipairs({ "connection", "upgrade", "te", "expect", "xcase" }) do
            assert.equals("", fields[name], name)
        end
    end)

    it("has its Host as its authority, its cookies in one, and TE for trailers", function()
        local fields = seen({ headers = {
            Host = "other.example", Cookie = { "a=1", "b=2" }, TE = "trailers", ["X-CASE"] = "yes",
        } })
        assert.equals("other.example", fields.host)
        assert.equals("a=1; b=2", fields.cookie)
        assert.equals("trailers", fields.te)
        assert.equals("yes", fields.xcase)
        assert.equals("localhost:" .. upstream.port, seen({}).host)
    end)

    it("is checked as over HTTP/1.1", function()
        local httpc = connected(upstream)
        for _, params in ipairs({
            { path = "/a b" }, { method = "G T" }, { headers = { ["a b"] = "1" } },
            { headers = { a = "1\r\nb: 2" } }, { headers = { Host = "user@host" } },
            { method = "POST", body = "abc", headers = { ["Content-Length"] = 4 } },
            { method = "CONNECT", path = "/" },
        }) do
            local res, _, details = httpc:request(params)
            assert.is_nil(res)
            assert.equals("bad_argument", details.code)
        end
        -- Nothing has been sent.
        assert.equals(200, assert(httpc:request({ path = "/echo" })).status)
    end)

    local big = ("0123456789abcdef"):rep(40000)

    local function pieces(count, piece)
        return function()
            count = count - 1
            return count >= 0 and piece or nil
        end
    end

    for name, case in pairs({
        ["a string"] = { body = big, expected = big },
        ["nothing"] = { body = "", expected = "" },
        ["a table"] = { body = { big, "end" }, expected = big .. "end" },
        ["an iterator"] = { body = pieces(20, big), expected = big:rep(20) },
        ["an iterator, chunked for HTTP/1.1"] = {
            body = pieces(3, "abc"), expected = "abcabcabc",
            headers = { ["Transfer-Encoding"] = "chunked" },
        },
        ["an iterator of known length"] = {
            body = pieces(3, "abc"), expected = "abcabcabc", headers = { ["Content-Length"] = 9 },
        },
    }) do
        it("has a body that is " .. name, function()
            local httpc = connected(upstream)
            local body = fetch(httpc, { method = "POST", path = "/body", body = case.body,
                                        headers = case.headers })
            assert.is_true(body == case.expected)
            assert.equals(1, httpc:set_keepalive())
        end)
    end

    it("has a body that goes through small windows", function()
        local body = fetch(connected_plain(), { method = "PUT", path = "/x", body = big })
        assert.is_true(body == big)
    end)

    for _, length in ipairs({ 2, 4 }) do
        it("is not sent with a body that is not as long as announced: " .. length, function()
            local httpc = connected(upstream)
            local res, _, details = httpc:request({
                method = "POST", path = "/body", body = pieces(1, "abc"),
                headers = { ["Content-Length"] = length },
            })
            assert.is_nil(res)
            assert.equals("bad_argument", details.code)
        end)
    end

    it("may be answered before it is complete", function()
        local httpc = connected(upstream)
        local res = assert(httpc:request({ method = "POST", path = "/echo", body = big:rep(10) }))
        assert.equals(413, res.status)
        assert.matches("Too Large", res:read_body(), 1, true)
    end)
end)


describe("a response over HTTP/2", function()
    it("has headers in any letter case", function()
        local _, res = fetch(connected(upstream), { path = "/echo" })
        assert.equals("text/plain", res.headers["Content-Type"])
        assert.equals("text/plain", res.headers.content_type)
        assert.equals("text/plain", rawget(res.headers, "content-type"))
    end)

    it("has no body for HEAD and 204", function()
        local httpc = connected(upstream)
        for _, params in ipairs({ { method = "HEAD", path = "/echo" }, { path = "/none" } }) do
            local body, res = fetch(httpc, params)
            assert.equals("", body)
            assert.is_false(res.has_body)
        end
        assert.equals(1, httpc:set_keepalive())
    end)

    it("is read in parts", function()
        local httpc = connected(upstream)
        local res = assert(httpc:request({ path = "/bytes?n=3000000" }))
        local count = 0
        for part in function() return res.body_reader(1000) end do
            assert.is_true(#part <= 1000)
            count = count + #part
        end
        assert.equals(3000000, count)
        assert.equals(1, httpc:set_keepalive())
    end)

    it("has trailers", function()
        local httpc = connected_plain()
        local res = assert(httpc:request({ path = "/echo" }))
        assert.equals("hello", res:read_body())
        res:read_trailers()
        assert.equals("42", res.headers["X-Sum"])
    end)

    it("is bounded", function()
        for _, case in ipairs({
            { path = "/bytes?n=2000", max_body_size = 1000 },
            { path = "/large?v=" .. ("x"):rep(2000), max_header_size = 1000 },
            { path = "/echo", max_headers = 2 },
        }) do
            local httpc = connected(upstream)
            local res, _, details = httpc:request(case)
            if res then
                res, _, details = res:read_body()
            end
            assert.is_nil(res)
            assert.equals("http_too_large", details.code)
        end
    end)

    it("has timings", function()
        local httpc = connected(upstream, { pool = "timings" })
        local res = assert(httpc:request({ path = "/slow?s=0.1" }))
        assert.equals("slow", res:read_body())
        assert.is_false(res.timings.reused)
        assert.is_true(res.timings.tls > 0)
        assert.is_true(res.timings.first_byte >= 100)
        res = assert(httpc:request({ path = "/echo" }))
        assert.is_true(res.timings.reused)
    end)

    it("comes in time, or not", function()
        local httpc = connected(upstream)
        httpc:set_timeouts(1000, 1000, 200)
        local res, err, details = httpc:request({ path = "/slow?s=2" })
        assert.is_nil(res)
        assert.equals("timeout", err)
        assert.equals("read_timeout", details.code)
    end)
end)


describe("the other functions over HTTP/2", function()
    it("are there", function()
        local httpc = client()
        local given = options(upstream)
        given.scheme, given.host, given.port = nil, nil, nil
        local uri = "https://localhost:" .. upstream.port .. "/echo"
        local res = assert(httpc:request_uri(uri, given))
        assert.equals("HTTP/2.0", upstream_of.parse(res.body).http)
    end)

    it("send several requests before they read", function()
        local httpc = connected(upstream)
        local responses = assert(httpc:request_pipeline({
            { path = "/slow?s=0.1" }, { path = "/echo" },
            { method = "POST", path = "/body", body = "third" },
        }))
        assert.equals("slow", responses[1]:read_body())
        assert.equals("HTTP/2.0", upstream_of.parse(responses[2]:read_body()).http)
        assert.equals("third", responses[3]:read_body())
        assert.equals(1, httpc:set_keepalive())
    end)

    it("send and read apart", function()
        local httpc = connected(upstream)
        local params = { method = "POST", path = "/body", body = "apart" }
        assert(httpc:send_request(params))
        assert.equals("apart", assert(httpc:read_response(params)):read_body())
        assert(httpc:send_request({ path = "/echo" }))
        local ok, err = httpc:set_keepalive()
        assert.is_nil(ok)
        assert.equals("unread data in buffer", err)
    end)
end)
