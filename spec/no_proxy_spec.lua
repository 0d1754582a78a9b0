local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local ports = require("spec.support.ports")
local seen_in = require("spec.support.nginx.upstream").parse
local squid = require("spec.support.squid")

local proxy, upstream, port


setup(function()
    proxy = squid.start()
    upstream = nginx.upstream({ server = [[
        listen 127.0.0.2:${port.plain};
        ]] .. (ports.has_ipv6() and "listen [::1]:${port.plain};" or "") .. [[
        location /seen {
            return 200 "via: $http_via\nproxy_authorization: $http_proxy_authorization\n";
        }
    ]] })
    port = upstream.ports.plain
    -- Every name is ours: without a proxy, they all lead to the upstream.
    assert(http.set_resolver(function() return "127.0.0.1" end))
end)

teardown(function()
    http.set_resolver(nil)
    upstream:stop()
    proxy:stop()
end)


local function request(no_proxy, host, params)
    local httpc = http.new()
    httpc:set_timeout(10000)
    httpc:set_proxy_options({
        http_proxy = "http://127.0.0.1:" .. proxy.ports.open, no_proxy = no_proxy,
        http_proxy_authorization = "Basic c2VjcmV0OnNlY3JldA==",
    })
    local res = assert(httpc:request_uri("http://" .. host .. ":" .. port .. "/seen", params))
    return seen_in(res.body)
end


describe("no_proxy", function()
    -- { no_proxy, host, whether the origin is spoken to directly }
    for _, case in ipairs({
        { "origin.test", "origin.test", true },
        { "ORIGIN.test", "Origin.TEST", true },
        { "origin.test", "www.origin.test", true },
        { ".origin.test", "www.origin.test", true },
        { "*.origin.test", "www.origin.test", true },
        { "test", "www.origin.test", true },
        { "gin.test", "origin.test", false },
        { "www.origin.test", "origin.test", false },
        { "origin.test.example", "origin.test", false },
        { "originXtest", "origin.test", false },
        { "o*", "origin.test", false },
        { "", "origin.test", false },
        { ",", "origin.test", false },
        { "a.example,origin.test,b.example", "origin.test", true },
        { "a.example , origin.test", "origin.test", true },
        { "a.example origin.test", "origin.test", true },
        { "*", "origin.test", true },
        { "a.example, *", "127.0.0.1", true },
        { "127.0.0.1", "127.0.0.1", true },
        { "127.0.0.1", "127.0.0.2", false },
        { "127.0.0.0/8", "127.0.0.2", true },
        { "127.0.0.0/31", "127.0.0.1", true },
        { "127.0.0.0/31", "127.0.0.2", false },
        { "0.0.0.0/0", "127.0.0.1", true },
        { "0.0.0.0/0", "origin.test", false },
        { "127.0.0.1/33", "127.0.0.1", false },
        { "::1/128", "127.0.0.1", false },
        { "origin.test:${port}", "origin.test", true },
        { ".origin.test:${port}", "www.origin.test", true },
        { "origin.test:1", "origin.test", false },
        { "127.0.0.1:${port}", "127.0.0.1", true },
        { "127.0.0.1:1", "127.0.0.1", false },
    }) do
        local no_proxy, host, direct = unpack(case)
        it(("%q %s %s"):format(no_proxy, direct and "excludes" or "lets through", host), function()
            local via = request(no_proxy:gsub("${port}", port), host).via
            if direct then
                assert.equals("", via)
            else
                assert.matches("squid", via)
            end
        end)
    end

    -- A name that has no more than itself to be known by.
    for _, case in ipairs({
        { "::1", true }, { "[::1]", true }, { "::/127", true }, { "::1/128", true },
        { "fd00::/8", false }, { "127.0.0.0/8", false },
    }) do
        it(("%q %s [::1]"):format(case[1], case[2] and "excludes" or "lets through"), function()
            local httpc = http.new()
            httpc:set_proxy_options({ http_proxy = "http://proxy.test", no_proxy = case[1] })
            local expected = not case[2] and "http://proxy.test" or nil
            assert.equals(expected, httpc:get_proxy_uri("http", "[::1]"))
            assert.equals(expected, httpc:get_proxy_uri("http", "::1"))
        end)
    end

    it("excludes an IPv6 address on a port", function()
        if not ports.has_ipv6() then
            pending("there is no IPv6 here")
            return
        end
        local function connect(no_proxy)
            local httpc = http.new()
            httpc:set_timeout(10000)
            -- Nobody listens there: what goes to the proxy fails.
            httpc:set_proxy_options({ http_proxy = "http://127.0.0.1:1", no_proxy = no_proxy })
            local ok = httpc:connect({ scheme = "http", host = "[::1]", port = port })
            httpc:close()
            return ok
        end
        assert.is_true(connect("[::1]:" .. port))
        assert.is_nil(connect("[::1]:1"))
    end)

    it("applies to https as well", function()
        local httpc = http.new()
        httpc:set_timeout(10000)
        for no_proxy, reached in pairs({ ["origin.test"] = true, ["other.test"] = false }) do
            httpc:set_proxy_options({ https_proxy = "http://127.0.0.1:1", no_proxy = no_proxy })
            local ok = httpc:connect({ scheme = "https", host = "origin.test",
                                       port = upstream.port, ssl_verify = false })
            httpc:close()
            assert.equals(reached, ok == true)
        end
    end)

    for _, no_proxy in ipairs({ "*", "origin.test", "origin.test:${port}" }) do
        it("keeps the proxy's credentials from the origin: " .. no_proxy, function()
            no_proxy = no_proxy:gsub("${port}", port)
            local seen = request(no_proxy, "origin.test")
            assert.same({ via = "", proxy_authorization = "" }, seen)
            for _, name in ipairs({ "Proxy-Authorization", "proxy-authorization" }) do
                seen = request(no_proxy, "origin.test", { headers = { [name] = "Basic eDp4" } })
                assert.same({ via = "", proxy_authorization = "" }, seen)
            end
        end)
    end
end)


describe("get_proxy_uri", function()
    it("is the proxy of the scheme, unless the host is excluded", function()
        local httpc = http.new()
        assert.is_nil(httpc:get_proxy_uri("http", "origin.test"))
        httpc:set_proxy_options({ http_proxy = "http://a.test:1", https_proxy = "http://b.test:2",
                                  no_proxy = "no.test, 10.0.0.0/8" })
        assert.equals("http://a.test:1", httpc:get_proxy_uri("http", "origin.test"))
        assert.equals("http://b.test:2", httpc:get_proxy_uri("https", "origin.test"))
        for _, scheme in ipairs({ "http", "https" }) do
            assert.is_nil(httpc:get_proxy_uri(scheme, "no.test"))
            assert.is_nil(httpc:get_proxy_uri(scheme, "10.1.2.3"))
        end
    end)

    it("is nothing without a proxy for that scheme", function()
        local httpc = http.new()
        httpc:set_proxy_options({ http_proxy = "http://a.test:1" })
        assert.is_nil(httpc:get_proxy_uri("https", "origin.test"))
        httpc:set_proxy_options({ http_proxy = "" })
        assert.is_nil(httpc:get_proxy_uri("http", "origin.test"))
    end)

    it("is nothing after the options were taken away", function()
        local httpc = http.new()
        httpc:set_proxy_options({ http_proxy = "http://a.test:1" })
        httpc:set_proxy_options(nil)
        assert.is_nil(httpc:get_proxy_uri("http", "origin.test"))
    end)

    it("is not changed by what the caller does to the options later", function()
        local httpc, options = http.new(), { http_proxy = "http://a.test:1" }
        httpc:set_proxy_options(options)
        options.http_proxy = "http://b.test:2"
        assert.equals("http://a.test:1", httpc:get_proxy_uri("http", "origin.test"))
    end)
end)
