--- The plugin mtls-forward-auth, with stand-ins for the parts of APISIX around it.
local apisix = require("spec.support.apisix.gateway")
local ports = require("spec.support.ports")
local socket = require("socket")

local ROUTES = [[
    local uri = "https://localhost:${service}/ask"
    local function add(name, conf, identity, more)
        conf.uri = conf.uri or uri
        conf.tls = tls_of(identity[1], identity[2], more)
        phases.add(name, "mtls-forward-auth", conf)
    end
    add("a", { request_headers = { "X-Want", "Authorization" } }, a)
    add("b", {}, b)
    add("post", { request_method = "POST", max_req_body_size = 10,
                  request_headers = { "Transfer-Encoding", "Content-Length", "Expect" } }, a)
    add("spoofed", { request_headers = { "x-forwarded-for", "X-FORWARDED-URI", "Host" },
                     extra_headers = { ["x-forwarded-host"] = "$http_host:1" } }, a)
    add("extra", { extra_headers = { ["X-Uri"] = "${uri} of $request_method", ["X-None"] = "$none",
                                     ["X-Plain"] = "plain" },
                   request_headers = { "X-Plain" } }, a)
    add("answer", { request_headers = { "X-Want" }, upstream_headers = { "X-User-ID", "X-Role" },
                    client_headers = { "Location", "X-Reason" } }, a)
    add("once", { keepalive = false }, a)

    local down = "https://localhost:${down}/ask"
    add("down", { uri = down, upstream_headers = { "X-User-ID" } }, a)
    add("down_418", { uri = down, status_on_error = 418 }, a)
    add("degraded", { uri = down, allow_degradation = true, upstream_headers = { "X-User-ID" } }, a)
    add("guarded", { allow_degradation = true, extra_headers = { ["X-Team"] = "$arg_team" } }, a)
    add("slow", { uri = "https://localhost:${service}/slow", timeout = 100 }, a)
    add("untrusted", {}, a, { ca_cert = ${pem.other-ca.crt} })
    add("unverified", { ssl_verify = false }, a, { ca_cert = ${pem.other-ca.crt} })
    add("verified", { ssl_verify = false }, a, { ca_cert = ${pem.other-ca.crt}, ssl_verify = true })
    add("named", { uri = "https://127.0.0.1:${service}/ask" }, a, { server_name = "target.server" })
]]

-- Of a configuration that names the service and a certificate, and has this besides.
local CHECK = [[
    local conf = { uri = "https://auth.test/", tls = {
        client_cert = ("c"):rep(128), client_key = ("k"):rep(64) } }
    for name, value in pairs({ ${more} }) do
        conf[name] = value ~= "none" and value or nil
    end
    print(require("apisix.plugins.mtls-forward-auth").check_schema(conf))
]]

local gateway


setup(function()
    gateway = apisix.start({
        routes = ROUTES, vars = { down = ports.free(), uri = "${uri}" },
    })
end)

teardown(function() gateway:stop() end)


-- The request that the service got, which has to be the only one.
local function asked(path, opts)
    local before = #gateway:seen()
    local response = gateway:ask(path, opts)
    local requests = gateway:seen()
    assert.equals(before + 1, #requests, response.body)
    return requests[#requests], response
end


describe("mtls-forward-auth asks", function()
    it("with the headers of forward-auth and nothing of the client's", function()
        local request, response = asked("/a/path?x=1", {
            headers = { Cookie = "c=1", ["X-Other"] = "o", ["X-Forwarded-For"] = "10.0.0.1" },
        })
        assert.equals(200, response.status)
        assert.equals("CN=client-a,O=Example", request.subject)
        assert.same({ "GET", "/ask" }, { request.method, request.uri })
        request.headers["user-agent"] = nil
        assert.same({
            host = "localhost:" .. gateway.service.port,
            ["x-forwarded-proto"] = "http", ["x-forwarded-method"] = "GET",
            ["x-forwarded-host"] = "localhost", ["x-forwarded-uri"] = "/a/path?x=1",
            ["x-forwarded-for"] = "127.0.0.1",
        }, request.headers)
    end)

    it("with the headers of the client's that request_headers names", function()
        local request = asked("/a", { headers = { authorization = "Bearer 1", Cookie = "c=1" } })
        assert.equals("Bearer 1", request.headers.authorization)
        assert.is_nil(request.headers.cookie)
        assert.is_nil(asked("/a").headers.authorization)
    end)

    it("with extra_headers, whose variables are resolved and which win", function()
        local request = asked("/extra/1?x=1", { headers = { ["X-Plain"] = "client" } })
        assert.equals("/extra/1 of GET", request.headers["x-uri"])
        assert.equals("", request.headers["x-none"])
        assert.equals("plain", request.headers["x-plain"])
    end)

    it("with one X-Forwarded-For, whatever its spelling in the configuration", function()
        local request = asked("/spoofed", { headers = {
            ["X-Forwarded-For"] = "10.0.0.1", ["X-Forwarded-Uri"] = "/admin", Host = "client.test",
        } })
        assert.equals("127.0.0.1", request.headers["x-forwarded-for"])
        assert.equals("/spoofed", request.headers["x-forwarded-uri"])
        assert.equals("client.test:1", request.headers["x-forwarded-host"])
        assert.equals("client.test", request.headers.host)
    end)

    it("with the body, for method POST", function()
        local request = asked("/post", {
            body = "the body", headers = { ["Content-Encoding"] = "identity" },
        })
        assert.same({ "POST", "the body", "8", "identity" }, {
            request.method, request.body, request.headers["content-length"],
            request.headers["content-encoding"],
        })
        assert.equals("POST", request.headers["x-forwarded-method"])
    end)

    it("with the body in one piece that the client sent in chunks", function()
        local connection = assert(socket.connect("127.0.0.1", gateway.nginx.port))
        connection:settimeout(10)
        connection:send("POST /post HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            .. "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
            .. "3\r\nthe\r\n5\r\n body\r\n0\r\n\r\n")
        assert.matches("200 OK", connection:receive("*a"), 1, true)
        connection:close()
        local requests = gateway:seen()
        local request = requests[#requests]
        assert.same({ "the body", "8" }, { request.body, request.headers["content-length"] })
        assert.is_nil(request.headers["transfer-encoding"])
        assert.is_nil(request.headers.expect)
    end)

    it("nobody about a body that is too large", function()
        local before = #gateway:seen()
        assert.equals(413, gateway:ask("/post", { body = "too long a body" }).status)
        assert.equals(before, #gateway:seen())
    end)

    it("under the name that tls.server_name gives", function()
        assert.equals(200, gateway:ask("/named").status)
    end)
end)


describe("mtls-forward-auth passes on", function()
    it("the headers that upstream_headers names, and never the client's", function()
        local client = { ["X-User-ID"] = "mallory", ["X-Role"] = "admin", ["X-Other"] = "mine" }
        client["X-Want"] = "X-User-ID=alice&X-Unnamed=1"
        local told = gateway:ask("/answer/1", { headers = client }).told
        assert.equals("alice", told.headers["x-user-id"])
        assert.is_nil(told.headers["x-role"])
        assert.is_nil(told.headers["x-unnamed"])
        assert.equals("mine", told.headers["x-other"])
    end)

    it("several values of a header", function()
        local told = gateway:ask("/answer", {
            headers = { ["X-Want"] = "X-Role=one&X-Role=two" },
        }).told
        assert.same({ "one", "two" }, told.headers["x-role"])
    end)

    for _, status in ipairs({ 302, 401, 403, 500 }) do
        it("a refusal with status " .. status, function()
            local response = gateway:ask("/answer", { headers = {
                ["X-Want"] = "status=" .. status .. "&body=no&Location=/login&X-User-ID=alice",
            } })
            assert.same({ status, "no" }, { response.status, response.body })
            assert.equals("/login", response.headers.location)
            assert.is_nil(response.headers["x-user-id"])
            assert.is_nil(response.headers["x-reason"])
        end)
    end
end)


describe("mtls-forward-auth, when the service cannot be asked,", function()
    local function assert_logged(route, ...)
        local log = gateway.nginx:error_log()
        for _, phrase in ipairs({ ... }) do
            local found = log:match("mtls%-forward%-auth: [^\n]*" .. phrase .. "[^\n]*/" .. route)
            assert.is_string(found, phrase .. " in:\n" .. log)
        end
    end

    it("refuses with status_on_error, and the log says what to do", function()
        assert.equals(403, gateway:ask("/down").status)
        assert.equals(418, gateway:ask("/down_418").status)
        assert_logged("down", "connection refused", "%(connect_refused%): %w")
    end)

    it("refuses after the time-out", function()
        local response = gateway:ask("/slow")
        assert.equals(403, response.status)
        assert.is_true(response.seconds < 5)
        assert_logged("slow", "timeout %(read_timeout%)")
    end)

    it("refuses a server that is not trusted, unless ssl_verify is false", function()
        assert.equals(403, gateway:ask("/untrusted").status)
        assert_logged("untrusted", "server_certificate_untrusted")
        assert.equals(200, gateway:ask("/unverified").status)
        assert.equals(403, gateway:ask("/verified").status)
    end)

    it("lets the request through with allow_degradation, without what the client claims", function()
        local response = gateway:ask("/degraded", { headers = { ["X-User-ID"] = "mallory" } })
        assert.equals(200, response.status)
        assert.is_nil(response.told.headers["x-user-id"])
        assert_logged("degraded", "connect_refused")
    end)

    it("refuses those whose headers cannot be sent, with allow_degradation too", function()
        local before = #gateway:seen()
        assert.equals(403, gateway:ask("/guarded?team=a%0D%0AX-Role:%20admin").status)
        assert.equals(before, #gateway:seen())
        assert.equals(200, gateway:ask("/guarded?team=a").status)
    end)
end)


describe("mtls-forward-auth keeps connections", function()
    it("for one certificate each", function()
        local count = 40
        -- The second time, there are idle connections of both.
        for _ = 1, 2 do
            local exchanges = {}
            for i = 1, count do
                local route = i % 2 == 0 and "a" or "b"
                exchanges[i] = gateway.nginx:send("/" .. route .. "/kept")
            end
            for i = 1, count do
                assert.equals(200, assert(exchanges[i]:receive()).status)
            end
        end

        local owners, reused, seen = {}, 0, 0
        for _, request in ipairs(gateway:seen()) do
            local route = request.headers["x-forwarded-uri"]:match("^/([ab])/kept$")
            if route then
                assert.equals("CN=client-" .. route .. ",O=Example", request.subject)
                local owner = owners[request.connection]
                assert.is_true(owner == nil or owner == route)
                reused = reused + (owner and 1 or 0)
                owners[request.connection] = route
                seen = seen + 1
            end
        end
        assert.equals(2 * count, seen)
        assert.is_true(reused > 0)
    end)

    it("unless keepalive is false", function()
        assert.not_equals(asked("/once").connection, asked("/once").connection)
    end)
end)


describe("the schema of mtls-forward-auth", function()
    local function check(more)
        return gateway.nginx:run(CHECK, { vars = { more = more } })
    end

    for _, more in ipairs({
        "request_method = 'POST'", "tls = { client_cert_id = 1 }", "tls = {}", "timeout = 60000",
        "tls = { client_cert = '$secret://vault/1/cert', client_key = '$ENV://KEY' }",
        "extra_headers = { ['X-A'] = '$remote_addr' }", "status_on_error = 599",
    }) do
        it("takes " .. more, function()
            assert.equals("true\n", check(more))
        end)
    end

    for more, phrase in pairs({
        ["uri = 'none'"] = "uri", ["uri = 1"] = "uri", ["uri = 'http://auth.test/'"] = "https",
        ["tls = 'none'"] = "tls", ["request_method = 'PUT'"] = "request_method",
        ["timeout = 0"] = "timeout", ["timeout = 60001"] = "timeout",
        ["status_on_error = 199"] = "status_on_error", ["keepalive_pool = 0"] = "keepalive_pool",
        ["keepalive_timeout = 999"] = "keepalive_timeout",
        ["request_headers = 'X-A'"] = "request_headers", ["extra_headers = {}"] = "extra_headers",
        ["extra_headers = { ['X-A'] = 1 }"] = "extra_headers",
        ["max_req_body_size = 0"] = "max_req_body_size",
        ["tls = { client_cert = ('c'):rep(128) }"] = "client_key",
    }) do
        it("refuses " .. more, function()
            local answer = check(more)
            assert.matches("^false\t", answer)
            assert.matches(phrase, answer, 1, true)
        end)
    end

    it("has forward-auth's defaults", function()
        assert.equals("GET 403 3000 60000 5 67108864 true true false 0\n", gateway.nginx:run([[
            local conf = { uri = "https://auth.test/", tls = {} }
            assert(require("apisix.plugins.mtls-forward-auth").check_schema(conf))
            print(table.concat({ conf.request_method, conf.status_on_error, conf.timeout,
                conf.keepalive_timeout, conf.keepalive_pool, conf.max_req_body_size,
                tostring(conf.ssl_verify), tostring(conf.keepalive),
                tostring(conf.allow_degradation),
                #conf.request_headers + #conf.upstream_headers + #conf.client_headers }, " "))
        ]]))
    end)

    it("has APISIX encrypt what is secret", function()
        assert.equals("tls.client_key tls.passphrase\n", gateway.nginx:run([[
            local schema = require("apisix.plugins.mtls-forward-auth").schema
            print(table.concat(schema.encrypt_fields, " "))
        ]]))
    end)
end)
