local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local seen_in = require("spec.support.nginx.upstream").parse
local squid = require("spec.support.squid")

-- The Basic credentials of squid.USERS.alice.
local ALICE = "Basic YWxpY2U6c2VjcmV0"

local proxy, upstream


setup(function()
    proxy = squid.start()
    upstream = nginx.upstream({ server = [[
        location /seen { return 200 "via: $http_via\n"; }
    ]] })
end)

teardown(function()
    upstream:stop()
    proxy:stop()
end)


local function client()
    local httpc = http.new()
    httpc:set_timeout(10000)
    return httpc
end


describe("connect_proxy", function()
    it("opens a tunnel in which ssl_handshake may follow", function()
        local httpc = client()
        assert(httpc:connect_proxy(proxy:uri("guarded"), "https", "localhost", upstream.port,
                                   ALICE))
        assert(httpc:tls_handshake({
            server_name = "localhost", verify = true,
            client_cert_path = certs.path("client-a.crt"),
            client_priv_key_path = certs.path("client-a.key"),
            trusted_certificate = certs.path("ca.crt"),
        }))
        local res = assert(httpc:request({ path = "/echo" }))
        assert.equals("CN=client-a,O=Example", seen_in(assert(res:read_body())).subject)
        httpc:close()
        proxy:wait_for("guarded", "CONNECT localhost:" .. upstream.port .. " alice 200")

        assert(httpc:connect_proxy(proxy:uri(), "https", "localhost", upstream.port))
        assert(httpc:ssl_handshake(nil, "localhost", false))
        res = assert(httpc:request({ path = "/bytes?n=1" }))
        -- There is no client certificate.
        assert.equals(400, res.status)
        httpc:close()
    end)

    it("fails as connect does when the proxy refuses", function()
        local ok, err, details = client():connect_proxy(proxy:uri("guarded"), "https",
                                                        "localhost", upstream.port)
        assert.is_nil(ok)
        assert.equals("failed to establish a tunnel through a proxy: 407", err)
        assert.equals("proxy_refused", details.code)
    end)

    it("leaves the absolute form of http requests to the caller", function()
        local httpc = client()
        assert(httpc:connect_proxy(proxy:uri(), "http", "localhost", upstream.ports.plain))
        local res = assert(httpc:request({
            path = "http://localhost:" .. upstream.ports.plain .. "/seen",
            headers = { Host = "localhost:" .. upstream.ports.plain },
        }))
        assert.matches("squid", seen_in(assert(res:read_body())).via)
        httpc:close()
    end)

    it("returns what is wrong with the proxy's URI", function()
        for _, uri in ipairs({ "socks5://localhost:1", "", "http://", false }) do
            local ok, err, details = client():connect_proxy(uri, "https", "localhost", 443)
            assert.is_nil(ok)
            assert.is_string(err)
            assert.equals("bad_argument", details.code)
        end
    end)

    -- The default decides if connect_proxy trusts the proxy, the option if connect does. Gives how
    -- often the connection that connect gets was used before, or the code of its error.
    local function taken_by_connect(default, trusted)
        -- The server's certificate is of another CA than the proxy's.
        local server = nginx.upstream({ cert = "server-unknown-ca", verify = "off" })
        local output = plain.run_lua([[
            local http = require("resty.mtls.http")
            assert(http.set_defaults({ ]] .. default .. [[ }))
            local httpc, trusted = http.new(), ]] .. trusted .. [[
            httpc:set_timeout(10000)
            assert(httpc:connect_proxy("${proxy}", "https", "localhost", ${port}))
            assert(httpc:tls_handshake({
                server_name = "localhost", verify = true, trusted_certificate = trusted,
            }))
            assert(assert(httpc:request({ path = "/bytes?n=1" })):read_body())
            httpc:set_keepalive()

            local ok, _, details = httpc:connect({
                scheme = "https", host = "localhost", port = ${port}, ssl_verify = true,
                ssl_trusted_certificate = trusted, proxy_opts = { https_proxy = "${proxy}" },
            })
            print(ok and httpc:get_reused_times() or details.code)
        ]], { vars = { proxy = proxy:uri("tls"), port = server.port } })
        server:stop()
        return output
    end

    it("leaves no connection to a call whose trust does not reach to the proxy", function()
        local only_server = "${pem.other-ca.crt}"
        for _, default in ipairs({ "ssl_verify = false",
                                   "ssl_trusted_certificate = ${pem.ca.crt}" }) do
            assert.equals("server_certificate_untrusted\n",
                          taken_by_connect(default, only_server))
        end
    end)

    it("leaves its connection to a call with the same trust", function()
        local both = "{ ${pem.ca.crt}, ${pem.other-ca.crt} }"
        assert.equals("1\n", taken_by_connect("ssl_trusted_certificate = " .. both, both))
    end)

    it("speaks TLS to an https:// proxy", function()
        -- The origin's port is a plain one, so that what is in the tunnel can be seen.
        assert.equals("200\n200\n", plain.run_lua([[
            local http = require("resty.mtls.http")
            assert(http.set_defaults({ ssl_trusted_certificate = ${pem.ca.crt} }))
            local httpc = http.new()
            httpc:set_timeout(10000)
            assert(httpc:connect_proxy("${proxy}", "https", "localhost", ${port}))
            local res = assert(httpc:request({ path = "/echo" }))
            print(res.status)
            assert(httpc:connect_proxy("${proxy}", "http", "localhost", ${port}))
            res = assert(httpc:request({ path = "http://localhost:${port}/echo" }))
            print(res.status)
        ]], { vars = { proxy = proxy:uri("tls"), port = upstream.ports.plain } }))
    end)
end)
