local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local pack = require("spec.support.scripted").pack
local places = require("spec.support.places")
local process = require("spec.support.process")
local secure = require("spec.support.secure")
local squid = require("spec.support.squid")

certs.add({
    ["info-many-names"] = { usage = "server", issuer = "ca", common_name = "many names",
                            names = "DNS:localhost,DNS:*.example.test,IP:127.0.0.1,IP:::1" },
    ["info-ca"] = { extensions = "basicConstraints=critical,CA:TRUE\n"
                        .. "subjectAltName=DNS:localhost\n" },
})

-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()


-- What openssl says of a certificate of the PKI.
local function as_openssl_says(identity, argument)
    local output = process.check({ "openssl", "x509", "-noout", "-sha256", argument,
                                   "-in", certs.path(identity .. ".leaf.crt") })
    return (output:match("=%s*(.-)%s*$"):gsub(":", ""):lower())
end


local function assert_certificate(identity, expected, certificate)
    expected.serial = as_openssl_says(identity, "-serial")
    expected.sha256 = as_openssl_says(identity, "-fingerprint")
    local found = { serial = certificate.serial:lower() }
    for name in pairs(expected) do
        found[name] = found[name] or certificate[name]
    end
    assert.same(expected, found)
end


local function info_of(server, options)
    local outcome = secure.call(server, options)
    assert.equals(200, outcome.status, outcome.err or outcome.body)
    return outcome.ssl
end


teardown(secure.finish)


describe("get_ssl_info", function()
    for version, cipher in pairs({
        ["TLSv1.2"] = "ECDHE-ECDSA-AES256-GCM-SHA384", ["TLSv1.3"] = "TLS_AES_256_GCM_SHA384",
    }) do
        describe("on " .. version, function()
            local server

            before_each(function()
                server = nginx.upstream({
                    protocols = version, verify = "optional", cert = "server-chained",
                    -- OpenSSL's names of ciphers differ from those of the standard on TLS 1.2.
                    http = "ssl_ciphers " .. (version == "TLSv1.2" and cipher or "DEFAULT") .. ";",
                })
            end)

            after_each(function() server:stop() end)

            it("tells what was agreed on", function()
                local info = info_of(server)
                assert.equals(version, info.version)
                assert.equals(version == "TLSv1.3" and cipher
                              or "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", info.cipher)
                assert.equals("http/1.1", info.alpn)
                assert.is_false(info.resumed)
                assert.is_true(info.requested)
            end)

            it("has the server's certificate and the chain that was sent", function()
                local info = info_of(server)
                assert_certificate("server-chained", {
                    subject = "O=Example, CN=server-chained",
                    issuer = "O=Example, CN=Test Intermediate CA",
                    not_before = "2020-01-01T00:00:00Z", not_after = "2049-12-31T00:00:00Z",
                    names = { "localhost", "target.server", "127.0.0.1" },
                    key = "ECDSA P-256", usages = { "serverAuth" },
                    is_ca = false, self_signed = false, expired = false, not_yet_valid = false,
                }, info.server)
                assert.equals(2, #info.chain)
                assert.same(info.server, info.chain[1])
                assert_certificate("intermediate", {
                    subject = "O=Example, CN=Test Intermediate CA",
                    issuer = "O=Example, CN=Test CA", names = {}, key = "ECDSA P-256",
                    is_ca = true, self_signed = false, expired = false, not_yet_valid = false,
                }, info.chain[2])
                assert.is_nil(info.chain[2].usages)
            end)

            it("has the client certificate that was sent", function()
                local info = info_of(server, secure.as("client-rsa"))
                assert_certificate("client-rsa", {
                    subject = "O=Example, CN=client-rsa", issuer = "O=Example, CN=Test CA",
                    not_before = "2020-01-01T00:00:00Z", not_after = "2049-12-31T00:00:00Z",
                    names = {}, key = "RSA 2048", usages = { "clientAuth" },
                    is_ca = false, self_signed = false, expired = false, not_yet_valid = false,
                }, info.identity)
                assert.is_true(info.requested)
            end)

            it("has none if none was sent", function()
                assert.is_nil(info_of(server).identity)
                local unasking = nginx.upstream({ protocols = version, verify = "off" })
                local info = info_of(unasking, secure.as("client-a"))
                unasking:stop()
                assert.is_false(info.requested)
                assert.is_nil(info.identity)
            end)

            it("tells of a resumed session", function()
                info_of(server, secure.as("client-a"))
                local info = info_of(server, secure.as("client-a"))
                assert.is_true(info.resumed)
                assert.is_nil(info.requested)
                assert.equals(version, info.version)
                assert.equals("string", type(info.cipher))
                assert.equals("http/1.1", info.alpn)
            end)

            it("says the same of a connection from the pool", function()
                local info = info_of(server, secure.as("client-a", { keep = true }))
                local outcome = secure.call(server, secure.as("client-a", { keep = true }))
                assert.equals(1, outcome.reused)
                assert.same(info, outcome.ssl)
            end)
        end)
    end

    for identity, expected in pairs({
        ["server-rsa"] = { key = "RSA 2048" },
        ["server-p384"] = { key = "ECDSA P-384" },
        ["server-ed25519"] = { key = "Ed25519" },
        ["server-expired"] = { expired = true, not_after = "2020-02-01T00:00:00Z" },
        ["server-not-yet-valid"] = { not_yet_valid = true, not_before = "2048-01-01T00:00:00Z" },
        ["server-self-signed"] = { self_signed = true, is_ca = false,
                                   issuer = "O=Example, CN=server-self-signed" },
        ["server-client-usage"] = { usages = { "clientAuth" } },
        ["server-no-san"] = { names = {}, subject = "O=Example, CN=localhost" },
        ["info-many-names"] = { subject = "O=Example, CN=many names",
                                names = { "localhost", "*.example.test", "127.0.0.1", "::1" } },
        ["info-ca"] = { self_signed = true, is_ca = true },
    }) do
        it("knows a certificate for what it is: " .. identity, function()
            local info = info_of(secure.server(identity), { ssl_verify = false })
            assert_certificate(identity, expected, info.server)
        end)
    end

    it("has a serial number as openssl shows it", function()
        -- Its DER begins with a zero byte, or it would be negative (X.690, 8.3.3).
        local path = fs.temp_dir("serial") .. "/cert.pem"
        local key = certs.path("server.key")
        process.check({ "openssl", "req", "-x509", "-key", key, "-subj", "/CN=localhost",
                        "-set_serial", "0x8f01", "-out", path })
        local server = openssl_server.start({ args = { "-cert", path, "-key", key } })
        local info = info_of(server, { ssl_verify = false })
        server:stop()
        assert.equals("8f01", info.server.serial)
    end)

    it("is that of the server, not of a proxy in front of it", function()
        local proxy = squid.start()
        local server = nginx.upstream({ cert = "server-rsa", verify = "off" })
        local info = info_of(server, { proxy_opts = { https_proxy = proxy:uri("tls") } })
        server:stop()
        proxy:stop()
        assert.equals("O=Example, CN=server-rsa", info.server.subject)
        assert.equals(1, #info.chain)
    end)
end)


describe("get_ssl_info while a client lives", function()
    local server

    setup(function() server = nginx.upstream({ verify = "off" }) end)

    teardown(function() server:stop() end)

    local function uri(path)
        return "https://localhost:" .. server.port .. path
    end

    it("has nothing before the first connection", function()
        local httpc = http.new()
        assert.same({ n = 2, nil, "closed" }, pack(httpc:get_ssl_info()))
        httpc:close()
        assert.same({ n = 2, nil, "closed" }, pack(httpc:get_ssl_info()))
    end)

    it("has nothing for http", function()
        local httpc = http.new()
        local options = { scheme = "http", host = "localhost", port = server.ports.plain }
        assert(httpc:connect(options))
        assert.same({ n = 2, nil, "not a TLS connection" }, pack(httpc:get_ssl_info()))
        assert.equals(200, assert(httpc:request({ path = "/echo" })).status)
        httpc:close()
        assert.same({ n = 2, nil, "not a TLS connection" }, pack(httpc:get_ssl_info()))
    end)

    it("is there after connect, and stays after close and set_keepalive", function()
        for _, ending in ipairs({ "close", "set_keepalive" }) do
            local httpc = secure.connect(server)
            local info = assert(httpc:get_ssl_info())
            assert.equals("O=Example, CN=server", info.server.subject)
            local res = assert(httpc:request({ path = "/echo" }))
            assert(res:read_body())
            assert.same(info, httpc:get_ssl_info())
            assert.equals(1, httpc[ending](httpc))
            assert.same(info, httpc:get_ssl_info())
        end
    end)

    it("is there after request_uri, and is that of the last connection", function()
        local httpc = http.new()
        local trusted = certs.path("ca.crt")
        assert(httpc:request_uri(uri("/echo"), { ssl_trusted_certificate = trusted,
                                                 ssl_max_version = "TLSv1.2" }))
        assert.equals("TLSv1.2", httpc:get_ssl_info().version)
        assert(httpc:request_uri(uri("/echo"), { ssl_trusted_certificate = trusted }))
        assert.equals("TLSv1.3", httpc:get_ssl_info().version)
        assert(httpc:request_uri("http://localhost:" .. server.ports.plain .. "/echo"))
        assert.same({ n = 2, nil, "not a TLS connection" }, pack(httpc:get_ssl_info()))
    end)

    it("is there for the old forms, after their handshake", function()
        local httpc = http.new()
        assert(httpc:connect("127.0.0.1", server.port))
        assert.same({ n = 2, nil, "not a TLS connection" }, pack(httpc:get_ssl_info()))
        assert(httpc:tls_handshake({ server_name = "localhost", verify = true,
                                     trusted_certificate = certs.path("ca.crt") }))
        assert.equals("O=Example, CN=server", httpc:get_ssl_info().server.subject)
        httpc:close()
    end)

    it("gives tables that are the caller's own", function()
        local httpc = secure.connect(server)
        httpc:get_ssl_info().server.subject = "changed"
        assert.equals("O=Example, CN=server", httpc:get_ssl_info().server.subject)
        httpc:close()
    end)
end)


for _, place in ipairs(places) do
    describe("get_ssl_info in " .. place.name, function()
        it("tells of both sides", function()
            local server = nginx.upstream()
            local output = place.run([[
                local httpc = require("resty.mtls.http").new()
                assert(httpc:request_uri("https://localhost:${up}/echo", {
                    ssl_trusted_certificate = ${pem.ca.crt},
                    ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key},
                }))
                local info = httpc:get_ssl_info()
                print(info.version, info.server.subject, info.identity.subject, info.requested)
            ]], { up = server.port })
            server:stop()
            assert.equals("TLSv1.3\tO=Example, CN=server\tO=Example, CN=client-a\ttrue\n", output)
        end)
    end)
end
