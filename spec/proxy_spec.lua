local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local native = require("resty.mtls.native")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local process = require("spec.support.process")
local squid = require("spec.support.squid")
local seen_in = require("spec.support.nginx.upstream").parse

local HEAD = peer.receive_until("\r\n\r\n")
local OK = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
-- The Basic credentials of squid.USERS.alice.
local ALICE = "Basic YWxpY2U6c2VjcmV0"

local proxy, upstream


setup(function()
    proxy = squid.start()
    upstream = nginx.upstream({ server = [[
        location /seen {
            return 200 "via: $http_via\nproxy_authorization: $http_proxy_authorization\n";
        }
    ]] })
end)

teardown(function()
    upstream:stop()
    proxy:stop()
end)


local function client(proxy_opts)
    local httpc = http.new()
    httpc:set_timeout(10000)
    httpc:set_proxy_options(proxy_opts)
    return httpc
end


local function through(name, credentials)
    return { http_proxy = proxy:uri(name, credentials), https_proxy = proxy:uri(name, credentials) }
end


local function plain_uri(path)
    return "http://localhost:" .. upstream.ports.plain .. path
end


local function tls_uri(path)
    return "https://localhost:" .. upstream.port .. path
end


local function identified(params)
    params = params or {}
    params.ssl_trusted_certificate = certs.path("ca.crt")
    params.ssl_cert_path = certs.path("client-a.crt")
    params.ssl_key_path = certs.path("client-a.key")
    return params
end


-- What the origin saw of a request, and the response.
local function request(proxy_opts, uri, params)
    local res = assert(client(proxy_opts):request_uri(uri, params))
    return seen_in(res.body), res
end


-- A stand-in for a proxy, for what squid does not do; `use` gets proxy options for it.
local function with_stand_in(script, use, tls)
    local stand_in = peer.start({ script = script, tls = tls })
    local uri = (tls and "https" or "http") .. "://localhost:" .. stand_in.port
    local ok, err = pcall(use, { http_proxy = uri, https_proxy = uri }, stand_in)
    stand_in:stop()
    if not ok then
        error(err, 0)
    end
end


describe("http through a proxy", function()
    it("is asked for in absolute form", function()
        local seen = request(through("open"), plain_uri("/seen?x=1"))
        assert.matches("squid", seen.via)
        proxy:wait_for("open", "GET " .. plain_uri("/seen?x=1") .. " - 200")
    end)

    it("names the origin in Host, and its port unless it is 80", function()
        for port, authority in pairs({ [80] = "origin.test", [8080] = "origin.test:8080" }) do
            with_stand_in({ HEAD, OK, peer.receive_to_end() }, function(proxy_opts, stand_in)
                request(proxy_opts, "http://origin.test:" .. port .. "/path", { query = "q=1" })
                local head = stand_in:received()
                assert.matches("^GET http://" .. authority .. "/path%?q=1 HTTP/1%.1\r\n", head)
                assert.matches("\r\nHost: " .. authority .. "\r\n", head)
            end)
        end
    end)

    it("takes the proxy from the parameters of the request too", function()
        local seen = request(nil, plain_uri("/seen"), { proxy_opts = through("open") })
        assert.matches("squid", seen.via)
    end)

    it("is not affected by the proxy for https", function()
        assert.equals("", request({ https_proxy = proxy:uri() }, plain_uri("/seen")).via)
    end)

    it("returns the proxy's own answer when it wants credentials", function()
        local res = assert(client(through("guarded")):request_uri(plain_uri("/seen")))
        assert.equals(407, res.status)
        assert.matches("^Basic", res.headers["Proxy-Authenticate"])
    end)

    it("presents credentials", function()
        local opts = through("guarded")
        opts.http_proxy_authorization = ALICE
        assert.equals(200, select(2, request(opts, plain_uri("/seen?user=1"))).status)
        proxy:wait_for("guarded", "GET " .. plain_uri("/seen?user=1") .. " alice 200")
    end)

    it("reaches the origin with connect and request as well", function()
        local httpc = client(through("open"))
        assert(httpc:connect({ scheme = "http", host = "localhost",
                               port = upstream.ports.plain }))
        for _ = 1, 2 do
            local res = assert(httpc:request({ path = "/seen" }))
            assert.matches("squid", seen_in(assert(res:read_body())).via)
        end
        assert.equals(1, httpc:set_keepalive())
    end)
end)


describe("https through a proxy", function()
    it("presents the client certificate to the origin, inside of a tunnel", function()
        local seen = request(through("open"), tls_uri("/echo"), identified({ keepalive = false }))
        assert.equals("CN=client-a,O=Example", seen.subject)
        assert.equals("localhost", seen.server_name)
        assert.equals("/echo", seen.uri)
        assert.equals("localhost:" .. upstream.port, seen.host)
        proxy:wait_for("open", "CONNECT localhost:" .. upstream.port .. " - 200")
    end)

    it("carries several requests over one tunnel", function()
        local httpc = client(through("open"))
        assert(httpc:connect(identified({ scheme = "https", host = "localhost",
                                          port = upstream.port })))
        for count = 1, 3 do
            local res = assert(httpc:request({ path = "/echo" }))
            local seen = seen_in(assert(res:read_body()))
            assert.equals(tostring(count), seen.connection_requests)
        end
        httpc:close()
    end)

    it("presents credentials", function()
        local opts = through("guarded")
        opts.https_proxy_authorization = ALICE
        local _, res = request(opts, tls_uri("/echo"), identified({ keepalive = false }))
        assert.equals(200, res.status)
        proxy:wait_for("guarded", "CONNECT localhost:" .. upstream.port .. " alice 200")
    end)

    it("says nothing to the proxy but where to, by what program, and the credentials", function()
        with_stand_in({ HEAD, peer.send("HTTP/1.1 503 No\r\n\r\n") }, function(opts, stand_in)
            opts.https_proxy_authorization = ALICE
            client(opts):request_uri("https://origin.test/secret", { headers = { Cookie = "x" } })
            assert.equals("CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n"
                          .. "User-Agent: " .. http._USER_AGENT .. "\r\n"
                          .. "Proxy-Authorization: " .. ALICE .. "\r\n\r\n",
                          stand_in:received())
        end)
    end)

    for name, case in pairs({
        ["without credentials"] = { "407", "proxy_authorization" },
        ["with wrong credentials"] = { "407", "proxy_authorization", "Basic bm86bm8=" },
        ["to a port that nobody listens on"] = { "503", "log", ALICE, port = 1 },
    }) do
        it("fails clearly " .. name, function()
            local opts = through("guarded")
            opts.https_proxy_authorization = case[3]
            local httpc = client(opts)
            local ok, err, details = httpc:connect(identified({
                scheme = "https", host = "localhost", port = case.port or upstream.port,
            }))
            assert.is_nil(ok)
            assert.equals("failed to establish a tunnel through a proxy: " .. case[1], err)
            assert.equals("proxy_refused", details.code)
            assert.equals("proxy", details.stage)
            assert.matches(case[2], details.hint)
            assert.is_nil((httpc:get_reused_times()))
        end)
    end

    for name, case in pairs({
        ["hangs"] = { { HEAD, peer.hang() }, "timeout", "connect_timeout" },
        ["closes"] = { { HEAD }, "closed", "closed" },
        ["speaks another protocol"] = { { peer.send("SSH-2.0-x\r\n\r\n"), peer.hang() }, "",
                                        "http_malformed" },
        ["speaks in the origin's place"] = {
            { HEAD, peer.send("HTTP/1.1 200 OK\r\n\r\n\22\3\3"), peer.hang() }, "",
            "http_malformed",
        },
    }) do
        it("fails clearly if the proxy " .. name, function()
            with_stand_in(case[1], function(opts)
                local httpc = client(opts)
                httpc:set_timeouts(name == "hangs" and 200 or 10000, 10000, 10000)
                local ok, err, details = httpc:connect(identified({
                    scheme = "https", host = "localhost", port = upstream.port,
                }))
                assert.is_nil(ok)
                assert.matches("^" .. case[2], err)
                assert.equals(case[3], details.code)
                assert.equals("proxy", details.stage)
            end)
        end)
    end
end)


describe("an https:// proxy", function()
    it("is spoken to in TLS, for http and for https", function()
        local trust = { ssl_trusted_certificate = certs.path("ca.crt") }
        assert.matches("squid", request(through("tls"), plain_uri("/seen?tls=1"), trust).via)
        proxy:wait_for("tls", "GET " .. plain_uri("/seen?tls=1") .. " - 200")
        local seen = request(through("tls"), tls_uri("/echo"), identified({ keepalive = false }))
        assert.equals("CN=client-a,O=Example", seen.subject)
        proxy:wait_for("tls", "CONNECT localhost:" .. upstream.port .. " - 200")
    end)

    for name, case in pairs({
        ["that is not trusted"] = { "server_certificate_untrusted", ca = "other-ca" },
        ["with another name"] = { "server_name_mismatch", cert = "server-wrong-name" },
    }) do
        it(name .. " gets no request", function()
            local script = { HEAD, OK, peer.receive_to_end() }
            with_stand_in(script, function(opts, stand_in)
                local res, _, details = client(opts):request_uri("http://origin.test/", {
                    ssl_trusted_certificate = certs.path((case.ca or "ca") .. ".crt"),
                })
                assert.is_nil(res)
                assert.equals(case[1], details.code)
                assert.equals("", stand_in:received())
            end, { cert = case.cert })
        end)
    end

    it("takes its connections with it when it is not trusted any more, however idle", function()
        local file = fs.temp_dir("trust") .. "/ca.crt"
        fs.write(file, certs.read("ca.crt"))
        local function visit()
            local trust = { ssl_trusted_certificate = file }
            return client(through("tls")):request_uri(plain_uri("/seen"), trust)
        end
        assert(visit())
        native.pass_time(100)
        fs.write(file, certs.read("other-ca.crt"))
        process.wait_until("the proxy is not trusted", function()
            local res, _, details = visit()
            return not res and details.code == "server_certificate_untrusted"
        end)
    end)

    it("is not offered the client certificate, which is for the origin", function()
        with_stand_in({ HEAD, peer.hang() }, function(opts, stand_in)
            assert.is_nil((client(opts):connect(identified({
                scheme = "https", host = "localhost", port = upstream.port,
            }))))
            stand_in:wait_for_event("1 handshake failed")
        end, { client_ca = "ca" })
    end)
end)


describe("credentials with a line break", function()
    for _, scheme in ipairs({ "http", "https" }) do
        it("are taken for a mistake, " .. scheme, function()
            with_stand_in({ HEAD, OK, peer.receive_to_end() }, function(opts, stand_in)
                opts[scheme .. "_proxy_authorization"] = ALICE .. "\r\nEvil: yes"
                local res, _, details = client(opts):request_uri(scheme .. "://origin.test/")
                assert.not_matches("Evil", stand_in:received() or "")
                assert.is_nil(res)
                assert.equals("bad_argument", details.code)
            end)
        end)
    end
end)
