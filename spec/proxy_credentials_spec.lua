local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local plain = require("spec.support.plain")
local seen_in = require("spec.support.nginx.upstream").parse
local squid = require("spec.support.squid")

-- The Basic credentials of squid.USERS.
local ALICE = "Basic YWxpY2U6c2VjcmV0"
local BOB = "Basic Ym9iOnA6cyU0MHMgdy9vQHJk"
-- As a URI has Bob's.
local BOB_IN_URI = "bob:p:s%2540s%20w%2Fo%40rd@"

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


-- Options of a destination behind the proxy.
local function target(scheme)
    local is_tls = scheme == "https"
    return {
        scheme = scheme, host = "localhost",
        port = is_tls and upstream.port or upstream.ports.plain,
        ssl_trusted_certificate = is_tls and certs.path("ca.crt") or nil,
        ssl_cert_path = is_tls and certs.path("client-a.crt") or nil,
        ssl_key_path = is_tls and certs.path("client-a.key") or nil,
    }
end


-- A request through the guarded port; what the origin saw, and the response.
local function request(scheme, proxy_opts, params)
    params = params or {}
    for name, value in pairs(target(scheme)) do
        params[name] = value
    end
    params.keepalive = false
    local uri = scheme .. "://localhost:" .. params.port .. "/seen"
    local res, err, details = client(proxy_opts):request_uri(uri, params)
    if not res then
        return nil, err, details
    end
    return seen_in(res.body), res
end


local function guarded(credentials)
    local uri = proxy:uri("guarded", credentials)
    return { http_proxy = uri, https_proxy = uri }
end


for _, scheme in ipairs({ "http", "https" }) do
    describe("credentials of a proxy, " .. scheme .. ",", function()
        local function assert_authorized(seen, res)
            assert.truthy(seen, res)
            assert.equals(200, res.status)
            assert.equals("", seen.proxy_authorization)
        end

        it("go to the proxy and not to the origin", function()
            local opts = guarded()
            opts[scheme .. "_proxy_authorization"] = ALICE
            assert_authorized(request(scheme, opts))
        end)

        it("may stand in the proxy's URI", function()
            assert_authorized(request(scheme, guarded("alice:secret@")))
        end)

        it("may be percent-encoded in the proxy's URI", function()
            assert_authorized(request(scheme, guarded(BOB_IN_URI)))
        end)

        it("may stand in a proxy's URI without a scheme", function()
            local opts = guarded()
            opts[scheme .. "_proxy"] = "alice:secret@localhost:" .. proxy.ports.guarded
            assert_authorized(request(scheme, opts))
        end)

        it("that are given win over those in the URI", function()
            local opts = guarded("nobody:wrong@")
            opts[scheme .. "_proxy_authorization"] = ALICE
            assert_authorized(request(scheme, opts))
        end)

        for _, name in ipairs({ "Proxy-Authorization", "proxy-authorization" }) do
            it("may be the request's header " .. name, function()
                local headers = { [name] = ALICE }
                assert_authorized(request(scheme, guarded(), { headers = headers }))
                -- The caller's table is as it was.
                assert.same({ [name] = ALICE }, headers)
            end)
        end

        it("may be a header with a table of one value, as any header", function()
            assert_authorized(request(scheme, guarded(), {
                headers = { ["Proxy-Authorization"] = { ALICE } },
            }))
        end)

        it("of the other scheme are not used", function()
            local opts = guarded()
            opts[(scheme == "http" and "https" or "http") .. "_proxy_authorization"] = ALICE
            local _, res, details = request(scheme, opts)
            assert.equals(407, details == nil and res.status or tonumber(res:match("%d+$")))
        end)

        it("select the pooled connection, as the proxy does", function()
            local opened = {}
            local function connect(opts)
                local httpc = client(opts)
                assert(httpc:connect(target(scheme)))
                local times = httpc:get_reused_times()
                local res = assert(httpc:request({ path = "/seen" }))
                assert.equals(200, res.status)
                assert(res:read_body())
                opened[#opened + 1] = httpc
                return times
            end
            local function by(authorization)
                local opts = guarded()
                opts[scheme .. "_proxy_authorization"] = authorization
                return opts
            end
            local function keep_all()
                for i = 1, #opened do
                    assert.equals(1, opened[i]:set_keepalive())
                    opened[i] = nil
                end
            end

            local open = { http_proxy = proxy:uri(), https_proxy = proxy:uri() }
            for times = 0, 1 do
                assert.equals(times, connect(by(ALICE)))
                keep_all()
                assert.equals(times, connect(by(BOB)))
                keep_all()
                assert.equals(times, connect(open))
                keep_all()
                assert.equals(times, connect(nil))
                keep_all()
            end
        end)
    end)
end


describe("proxy options of the wrong kind", function()
    for name, headers in pairs({
        ["headers that are no table"] = "Proxy-Authorization: x",
        ["a number as credentials"] = { ["Proxy-Authorization"] = 5 },
        ["a boolean as credentials"] = { ["Proxy-Authorization"] = true },
        ["an empty table as credentials"] = { ["Proxy-Authorization"] = {} },
    }) do
        it("raise no error: " .. name, function()
            for _, scheme in ipairs({ "http", "https" }) do
                assert.has_no.errors(function()
                    request(scheme, guarded(), { headers = headers })
                end)
            end
        end)
    end

    for _, uri in ipairs({ "socks5://localhost:1", "http://", "http://:1", "http://localhost:0",
                           "http://localhost:99999", "ftp://localhost",
                           "http://a b:1" }) do
        it("are named: " .. uri, function()
            local _, err, details = request("http", { http_proxy = uri })
            assert.is_string(err)
            assert.equals("bad_argument", details.code)
        end)
    end
end)


describe("from_env", function()
    local NONE = { http_proxy = false, HTTP_PROXY = false, https_proxy = false,
                   HTTPS_PROXY = false, no_proxy = false, NO_PROXY = false,
                   all_proxy = false, ALL_PROXY = false, REQUEST_METHOD = false }

    -- The proxies for http and https that a process with this environment takes.
    local function proxies(env, options)
        local all = {}
        for name, value in pairs(NONE) do
            all[name] = env[name] or value
        end
        local output = plain.run_lua([[
            local httpc = require("resty.mtls.http").new()
            httpc:set_proxy_options(${options})
            for _, host in ipairs({ "origin.test", "no.test" }) do
                print(httpc:get_proxy_uri("http", host), httpc:get_proxy_uri("https", host))
            end
        ]], { env = all, vars = { options = options or "{ from_env = true }" } })
        return output:match("^(%S+)\t(%S+)\n(%S+)\t(%S+)\n$")
    end

    it("takes the variables in small letters", function()
        assert.same({ "http://a:1", "http://b:2", "nil", "nil" }, { proxies({
            http_proxy = "http://a:1", https_proxy = "http://b:2", no_proxy = "no.test",
        }) })
    end)

    it("takes the variables in capitals", function()
        assert.same({ "http://a:1", "http://b:2", "nil", "nil" }, { proxies({
            HTTP_PROXY = "http://a:1", HTTPS_PROXY = "http://b:2", NO_PROXY = "no.test",
        }) })
    end)

    it("prefers small letters, and both to all_proxy", function()
        assert.same({ "http://a:1", "http://c:3", "nil", "nil" }, { proxies({
            http_proxy = "http://a:1", HTTP_PROXY = "http://b:2", all_proxy = "http://c:3",
            no_proxy = "no.test", NO_PROXY = "origin.test",
        }) })
    end)

    it("does not take HTTP_PROXY in a CGI program, where it is a header of the client", function()
        assert.same({ "nil", "nil", "nil", "nil" }, { proxies({
            HTTP_PROXY = "http://a:1", REQUEST_METHOD = "GET",
        }) })
    end)

    it("leaves alone what is given", function()
        assert.same({ "http://x:9", "http://b:2", "http://x:9", "http://b:2" }, { proxies({
            http_proxy = "http://a:1", https_proxy = "http://b:2", no_proxy = "origin.test",
        }, "{ from_env = true, http_proxy = 'http://x:9', no_proxy = 'other.test' }") })
    end)

    it("has to be asked for", function()
        for _, options in ipairs({ "nil", "{}", "{ from_env = false }" }) do
            assert.same({ "nil", "nil", "nil", "nil" }, { proxies({
                http_proxy = "http://a:1", https_proxy = "http://b:2", all_proxy = "http://c:3",
            }, options) })
        end
    end)

    it("leads through the proxy, with its credentials", function()
        local env = { HTTPS_PROXY = proxy:uri("guarded", BOB_IN_URI) }
        for name, value in pairs(NONE) do
            env[name] = env[name] or value
        end
        assert.equals("200\n", plain.run_lua([[
            local httpc = require("resty.mtls.http").new()
            httpc:set_timeout(10000)
            httpc:set_proxy_options({ from_env = true })
            local res = assert(httpc:request_uri("https://localhost:${port}/seen", {
                ssl_trusted_certificate = ${pem.ca.crt},
                ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key},
            }))
            print(res.status)
        ]], { env = env, vars = { port = upstream.port } }))
        proxy:wait_for("guarded", "CONNECT localhost:" .. upstream.port .. " bob 200")
    end)
end)


describe("a proxy that closes the tunnel of a pooled connection", function()
    it("is asked for another one", function()
        local answer = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        local tunnel = peer.send("HTTP/1.1 200 Connection established\r\n\r\n")
        local head = peer.receive_until("\r\n\r\n")
        -- A proxy and its origin in one, for an origin that speaks no TLS in its tunnel.
        local stand_in = peer.start({ scripts = {
            { head, tunnel, head, answer, head },
            { head, tunnel, head, answer, peer.receive_to_end() },
        } })
        local httpc = client()
        local uri = "http://localhost:" .. stand_in.port
        for _ = 1, 2 do
            assert(httpc:connect_proxy(uri, "https", "origin.test", 443, ALICE))
            local res = assert(httpc:request({ path = "/" }))
            assert.equals("ok", res:read_body())
            assert.equals(1, httpc:set_keepalive())
        end
        for number = 1, 2 do
            local received = stand_in:received(number)
            assert.matches("^CONNECT origin%.test:443 .*\r\n\r\nGET / HTTP/1%.1\r\n", received)
            local _, count = received:gsub("Proxy%-Authorization", "")
            assert.equals(1, count)
        end
        stand_in:stop()
    end)
end)
