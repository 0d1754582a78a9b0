local certs = require("spec.support.certs")
local getaddrinfo = require("spec.support.getaddrinfo")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local ports = require("spec.support.ports")
local seen_in = require("spec.support.nginx.upstream").parse
local squid = require("spec.support.squid")

local upstream, asked


setup(function()
    upstream = nginx.upstream({
        server = ports.has_ipv6() and "listen [::1]:${port.plain};" or "",
    })
end)

teardown(function() upstream:stop() end)

before_each(function() asked = {} end)

after_each(function() http.set_resolver(nil) end)


-- Has names resolved to what `answers` says, and writes down which were asked for.
local function resolve(answers)
    assert.is_true(http.set_resolver(function(host)
        asked[#asked + 1] = host
        local answer = answers[host]
        if answer then
            return answer
        end
        return nil, "no such name here"
    end))
end


local function client()
    local httpc = http.new()
    httpc:set_timeout(10000)
    return httpc
end


local function connect(host, options)
    local given = { scheme = "http", host = host, port = upstream.ports.plain }
    for name, value in pairs(options or {}) do
        given[name] = value
    end
    local httpc = client()
    local ok, err, details = httpc:connect(given)
    if not ok then
        return nil, err, details
    end
    return httpc
end


local function host_seen(httpc)
    local res = assert(httpc:request({ path = "/echo" }))
    return (seen_in(assert(res:read_body())).host:gsub(":%d+$", ""))
end


describe("a resolver of the caller's", function()
    it("is asked for a name, which stays the Host", function()
        resolve({ ["origin.test"] = "127.0.0.1" })
        assert.equals("origin.test", host_seen(assert(connect("origin.test"))))
        assert.same({ "origin.test" }, asked)
    end)

    it("is asked for localhost too", function()
        resolve({ localhost = "127.0.0.1" })
        assert(connect("localhost")):close()
        assert.same({ "localhost" }, asked)
    end)

    it("leaves the name for TLS as it is", function()
        resolve({ ["target.server"] = "127.0.0.1", ["other.test"] = "127.0.0.1" })
        local options = {
            scheme = "https", port = upstream.port, ssl_trusted_certificate = certs.path("ca.crt"),
            ssl_cert_path = certs.path("client-a.crt"), ssl_key_path = certs.path("client-a.key"),
        }
        local httpc = assert(connect("target.server", options))
        local res = assert(httpc:request({ path = "/echo" }))
        assert.equals("target.server", seen_in(assert(res:read_body())).server_name)
        local ok, _, details = connect("other.test", options)
        assert.is_nil(ok)
        assert.equals("server_name_mismatch", details.code)
    end)

    it("is asked in the old forms and in request_uri", function()
        resolve({ ["origin.test"] = "127.0.0.1" })
        local httpc = client()
        assert(httpc:connect("origin.test", upstream.ports.plain))
        httpc:close()
        local uri = "http://origin.test:" .. upstream.ports.plain .. "/echo"
        assert.equals(200, assert(client():request_uri(uri, { keepalive = false })).status)
        assert.same({ "origin.test", "origin.test" }, asked)
    end)

    it("is asked each time, and not for a pooled connection", function()
        resolve({ ["pooled.test"] = "127.0.0.1" })
        for _ = 1, 2 do
            local first, second = assert(connect("pooled.test")), assert(connect("pooled.test"))
            host_seen(first)
            first:set_keepalive()
            second:close()
        end
        assert.same({ "pooled.test", "pooled.test", "pooled.test" }, asked)
    end)

    for _, host in ipairs({ "127.0.0.1", "[::1]", "::1" }) do
        it("is not asked for " .. host, function()
            if host ~= "127.0.0.1" and not ports.has_ipv6() then
                pending("there is no IPv6 here")
                return
            end
            resolve({})
            assert(connect(host)):close()
            assert.same({}, asked)
        end)
    end

    it("is not asked for a unix socket", function()
        resolve({})
        local httpc = client()
        assert(httpc:connect("unix:" .. upstream.plain_socket))
        httpc:close()
        assert.same({}, asked)
    end)

    it("is asked for the proxy, which resolves the rest", function()
        local proxy = squid.start()
        resolve({ ["proxy.test"] = "127.0.0.1" })
        local uri = "http://proxy.test:" .. proxy.ports.open
        local proxy_opts = { http_proxy = uri, https_proxy = uri }
        assert.equals("origin.test", host_seen(assert(connect("origin.test",
                                                              { proxy_opts = proxy_opts }))))
        assert(connect("origin.test", { scheme = "https", port = upstream.port,
                                        ssl_verify = false, proxy_opts = proxy_opts })):close()
        assert(client():connect_proxy(uri, "https", "origin.test", upstream.port))
        assert(client():connect_proxy(uri, "http", "origin.test", upstream.port))
        assert.same({ "proxy.test", "proxy.test", "proxy.test", "proxy.test" }, asked)
        proxy:stop()
    end)

    it("may be taken away again", function()
        resolve({})
        http.set_resolver(nil)
        assert(connect("localhost")):close()
        assert.same({}, asked)
    end)

    it("has to be a function", function()
        for _, resolver in ipairs({ "127.0.0.1", 1, {} }) do
            local ok, err, details = http.set_resolver(resolver)
            assert.is_nil(ok)
            assert.is_string(err)
            assert.equals("bad_argument", details.code)
        end
    end)

    it("may wait, inside nginx", function()
        assert.equals("200\n", nginx.run_lua([[
            local http = require("resty.mtls.http")
            http.set_resolver(function()
                ngx.sleep(0.01)
                return "127.0.0.1"
            end)
            print(http.new():request_uri("http://origin.test:${up}/echo").status)
        ]], { vars = { up = upstream.ports.plain } }))
    end)
end)


describe("a resolver that fails", function()
    local function assert_dns_failed(reason, host)
        local ok, err, details = connect(host or "missing.test")
        assert.is_nil(ok)
        assert.equals("failed to parse domain: missing.test, error: " .. reason,
                      reason == "" and err:match("^.*, error: ") or err)
        assert.equals("dns_failed", details.code)
        assert.equals("resolve", details.stage)
        assert.is_string(details.hint)
    end

    it("is quoted", function()
        resolve({})
        assert_dns_failed("no such name here")
    end)

    it("with an error is quoted too", function()
        http.set_resolver(function() error("resolver is broken", 0) end)
        assert_dns_failed("resolver is broken")
        http.set_resolver(function() error({}) end)
        assert.equals("dns_failed", select(3, connect("missing.test")).code)
    end)

    it("without a reason is an error as well", function()
        http.set_resolver(function() end)
        assert_dns_failed("")
        http.set_resolver(function() return {} end)
        assert_dns_failed("")
    end)

    for name, answer in pairs({
        ["a name"] = "other.test", ["an empty string"] = "", ["a port"] = "127.0.0.1:80",
        ["a list with a name"] = { "127.0.0.1", "other.test" },
        ["a list with a table"] = { "127.0.0.1", {} },
        ["a list with a boolean"] = { "127.0.0.1", false },
    }) do
        it("by giving " .. name .. " raises no error", function()
            http.set_resolver(function() return answer end)
            local done, ok, err, details = pcall(connect, "origin.test")
            assert.is_true(done, ok)
            assert.is_nil(ok)
            assert.is_string(err)
            assert.is_string(details.code)
        end)
    end
end)


describe("several addresses", function()
    local LOOPBACKS = { "127.0.0.2", "127.0.0.3", "127.0.0.1" }

    it("are tried in turn", function()
        resolve({ ["origin.test"] = LOOPBACKS })
        assert.equals("origin.test", host_seen(assert(connect("origin.test"))))
        -- The caller's table is as it was.
        assert.same({ "127.0.0.2", "127.0.0.3", "127.0.0.1" }, LOOPBACKS)
    end)

    it("that all refuse fail with the last one", function()
        resolve({ ["origin.test"] = { "127.0.0.3", "127.0.0.2" } })
        local ok, err, details = connect("origin.test")
        assert.is_nil(ok)
        assert.equals("connection refused: 127.0.0.2:" .. upstream.ports.plain, err)
        assert.equals("connect_refused", details.code)
    end)

    it("may be of both families", function()
        resolve({ ["origin.test"] = { "::1", "127.0.0.2", "127.0.0.1" } })
        assert.equals("origin.test", host_seen(assert(connect("origin.test"))))
        if ports.has_ipv6() then
            resolve({ ["origin.test"] = { "127.0.0.2", "::1" } })
            assert.equals("origin.test", host_seen(assert(connect("origin.test"))))
        end
    end)

    it("of getaddrinfo are tried in turn", function()
        local lookups = getaddrinfo.start()
        assert.equals("200\n", plain.run_lua([[
            local httpc = require("resty.mtls.http").new()
            print(assert(httpc:request_uri("http://several.test:${up}/echo")).status)
        ]], { vars = { up = upstream.ports.plain }, env = lookups.env }))
        assert.same({ "several.test" }, lookups:names())
    end)
end)


describe("an IPv6 address", function()
    for _, host in ipairs({ "[::1]", "::1", "[0:0:0:0:0:0:0:1]" }) do
        it("is connected to and named in Host with brackets: " .. host, function()
            if not ports.has_ipv6() then
                pending("there is no IPv6 here")
                return
            end
            local bracketed = host:find("[", 1, true) and host or "[" .. host .. "]"
            assert.equals(bracketed, host_seen(assert(connect(host))))
        end)
    end
end)


describe("a name without a resolver of the caller's", function()
    it("is looked up by the system", function()
        assert.equals("localhost", host_seen(assert(connect("localhost"))))
    end)

    it("that does not exist is a clear error", function()
        local ok, err, details = connect("no.such.name.invalid")
        assert.is_nil(ok)
        assert.matches("^failed to parse domain: no%.such%.name%.invalid, error: ", err)
        assert.equals("dns_failed", details.code)
        assert.equals("resolve", details.stage)
    end)

    -- How often a name is looked up by that many connections.
    local function lookups_of(count, options, between)
        local lookups = getaddrinfo.start()
        plain.run_lua([[
            local http = require("resty.mtls.http")
            assert(http.set_defaults(${options}))
            for i = 1, ${count} do
                local httpc = http.new()
                assert(httpc:connect({ scheme = "http", host = "localhost", port = ${up} }))
                httpc:close()
                if i < ${count} then
                    ${between}
                end
            end
        ]], { env = lookups.env, vars = { options = options or "{}", count = count,
              between = between or "", up = upstream.ports.plain } })
        return #lookups:names()
    end

    it("is remembered for a while", function()
        assert.equals(1, lookups_of(5))
    end)

    it("is remembered for dns_cache_time", function()
        assert.equals(1, lookups_of(5, "{ dns_cache_time = 60000 }"))
        assert.equals(2, lookups_of(2, "{ dns_cache_time = 1 }", "os.execute('sleep 0.01')"))
    end)

    it("is not remembered with dns_cache_time = 0", function()
        assert.equals(5, lookups_of(5, "{ dns_cache_time = 0 }"))
    end)
end)
