--- resty.mtls.apisix, with stand-ins for the parts of APISIX that it uses.
local certs = require("spec.support.certs")
local chunk_runner = require("spec.support.apisix.chunks")

local chunks


setup(function() chunks = chunk_runner.start() end)

teardown(function() chunks:stop() end)


describe("setup", function()
    it("has names resolved as APISIX does", function()
        assert.equals("200\tservice.test\nfailed to parse domain: nowhere.test", chunks:run_alone([[
            assert(mtls.setup())
            core.stand_in.hosts["service.test"] = "127.0.0.1"
            local function get(host)
                return http.new():request_uri("https://" .. host .. ":$SERVER/echo", {
                    ssl_trusted_certificate = ${pem.ca.crt}, ssl_cert = cert, ssl_key = key,
                    ssl_server_name = "localhost" })
            end
            print(get("service.test").status, core.stand_in.resolved[1])
            print((select(2, get("nowhere.test"))))
        ]]):match("^(.-), error: failed to parse domain\n$"))
    end)

    for what, trusted in pairs({
        ["a path"] = '"' .. certs.path("ca.crt") .. '"',
        ["a list of paths"] = '{ "' .. certs.path("other-ca.crt") .. '", "'
            .. certs.path("ca.crt") .. '" }',
    }) do
        it("has servers trusted by config.yaml: " .. what, function()
            assert.equals("200\n", chunks:run_alone([[
                core.config.local_conf().apisix.ssl = {
                    ssl_trusted_certificate = ]] .. trusted .. [[,
                }
                assert(mtls.setup())
                print(http.new():request_uri(uri, {
                    ssl_cert = cert, ssl_key = key }).status)
            ]]))
        end)
    end

    it("has servers trusted by the system, if config.yaml says so", function()
        assert.equals("200\n", chunks:run_alone([[
            core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = "system" }
            assert(mtls.setup())
            print(http.new():request_uri(uri, {
                ssl_cert = cert, ssl_key = key }).status)
        ]], { env = { SSL_CERT_FILE = certs.path("ca.crt") } }))
    end)

    it("leaves trust as it is, if config.yaml says nothing", function()
        assert.equals("200\n", chunks:run_alone([[
            assert(http.set_defaults({ ssl_trusted_certificate = ${pem.ca.crt} }))
            assert(mtls.setup())
            print(http.new():request_uri(uri, {
                ssl_cert = cert, ssl_key = key }).status)
        ]]))
    end)

    it("leaves trust as a hook at start-up has set it", function()
        assert.equals("200\n", chunks:run_alone([[
            core.config.local_conf().apisix.ssl = {
                ssl_trusted_certificate = "${cert.other-ca.crt}",
            }
            assert(http.set_defaults({ ssl_trusted_certificate = { ${pem.ca.crt}, "system" } }))
            assert(mtls.setup())
            print(http.new():request_uri(uri, {
                ssl_cert = cert, ssl_key = key }).status)
        ]]))
    end)

    it("sets trust where a hook has set other defaults", function()
        assert.equals("200\n", chunks:run_alone([[
            core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = "${cert.ca.crt}" }
            assert(http.set_defaults({ ssl_verify = true }))
            assert(mtls.setup())
            print(http.new():request_uri(uri, {
                ssl_cert = cert, ssl_key = key }).status)
        ]]))
    end)

    it("says that config.yaml names no certificates", function()
        assert.equals("nil\tapisix.ssl.ssl_trusted_certificate in config.yaml: "
            .. "bad 'ssl_trusted_certificate'", chunks:run_alone([[
            core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = 1 }
            print(mtls.setup())
        ]]):match("^(.-):[^:]*\n$"))
    end)

    it("does nothing the second time", function()
        assert.equals("true\ttrue\n200\n", chunks:run_alone([[
            local trust = { ssl_trusted_certificate = "${cert.ca.crt}" }
            core.config.local_conf().apisix.ssl = trust
            local first = mtls.setup()
            trust.ssl_trusted_certificate = "${cert.other-ca.crt}"
            print(first, mtls.setup())
            print(http.new():request_uri(uri, {
                ssl_cert = cert, ssl_key = key }).status)
        ]]))
    end)

    for _, phase in ipairs({ "init", "init_worker", "set", "rewrite", "access", "header_filter",
                             "body_filter", "log", "timer" }) do
        it("may be called in phase " .. phase, function()
            assert.equals("true\n", chunks:run_alone([[
                core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = "system" }
                print(mtls.setup())
            ]], { phase = phase }))
        end)
    end
end)


describe("tls_schema", function()
    local function check(tls)
        return chunks:run("print(core.schema.check(mtls.tls_schema, { " .. tls .. " }))")
    end

    for _, tls in ipairs({
        "", "client_cert = cert, client_key = key", "client_cert_id = 'id-1'", "client_cert_id = 7",
        "client_cert = ('c'):rep(128), client_key = ('k'):rep(64)",
        "client_cert = ('c'):rep(65536), client_key = ('k'):rep(65536)",
        "client_cert = '$secret://vault/1/c', client_key = '$env://KEY'",
        "client_cert = '$ENV://CERT', client_key = '$Env://KEY/sub', passphrase = '$env://P'",
        "client_cert = cert, client_key = key, passphrase = 'p'",
        "ca_cert = '/etc/ssl/ca.pem'", "ca_cert = cert", "ssl_verify = false",
        "server_name = 'a.test'", "server_name = '[::1]'", "server_name = '$env://NAME'",
    }) do
        it("takes " .. tls, function()
            assert.equals("true\n", check(tls))
        end)
    end

    for tls, phrase in pairs({
        ["client_cert = cert"] = "client_key", ["client_key = key"] = "client_cert",
        ["client_cert_id = 1, client_cert = cert, client_key = key"] = "match",
        ["client_cert = ('c'):rep(127), client_key = key"] = "client_cert",
        ["client_cert = ('c'):rep(65537), client_key = key"] = "client_cert",
        ["client_cert = cert, client_key = ('k'):rep(63)"] = "client_key",
        ["client_cert = cert, client_key = ('k'):rep(65537)"] = "client_key",
        ["client_cert = cert, client_key = '$other://x'"] = "client_key",
        ["client_cert_id = ''"] = "client_cert_id", ["client_cert_id = 0"] = "client_cert_id",
        ["client_cert_id = 'a/b'"] = "client_cert_id", ["passphrase = 'p'"] = "client_key",
        ["client_cert = cert, client_key = key, passphrase = ''"] = "passphrase",
        ["ca_cert = ''"] = "ca_cert", ["ssl_verify = 'no'"] = "ssl_verify",
        ["server_name = ''"] = "server_name", ["server_name = key"] = "server_name",
        ["client_crt = cert"] = "client_crt",
    }) do
        it("refuses " .. tls, function()
            local answer = check(tls)
            assert.matches("^false\t", answer)
            assert.matches(phrase, answer, 1, true)
        end)
    end
end)


describe("request", function()
    local CONF = "timeout = 5000, keepalive = true, keepalive_timeout = 1000, keepalive_pool = 1"

    -- What is said about a failure with such a `tls`.
    local function error_of(tls)
        return chunks:run([[
            print(select(2, mtls.request({ ]] .. CONF .. ", tls = { " .. tls .. [[ } }, uri, {})))
        ]])
    end

    it("is made with the client certificate", function()
        assert.equals("200\n", chunks:run([[
            local tls = { client_cert = cert, client_key = key, ca_cert = ${pem.ca.crt} }
            local conf = { ]] .. CONF .. [[, tls = tls }
            print(mtls.request(conf, uri, {}).status)
        ]]))
    end)

    it("says what is wrong in terms of the configuration", function()
        for tls, phrases in pairs({
            ["client_cert = other_cert, client_key = key"] = { "key_mismatch", "tls.client_key" },
            ["client_cert = 'x', client_key = key"] = {
                "bad_certificate_pem", "'tls.client_cert'" },
            ["client_cert = cert, client_key = ${pem.client-a.encrypted.key}"] = {
                "key_encrypted", "tls.passphrase" },
            ["ca_cert = '/nowhere/ca.pem', client_cert = cert, client_key = key"] = {
                "'tls.ca_cert'", "/nowhere/ca.pem" },
            ["client_cert = cert, client_key = key"] = { "apisix.ssl.ssl_trusted_certificate" },
        }) do
            local err = error_of(tls)
            for _, phrase in ipairs(phrases) do
                assert.matches(phrase, err, 1, true)
            end
            assert.not_matches("ssl_", (err:gsub("apisix%.ssl%.ssl_trusted_certificate", "")))
        end
    end)

    it("needs no tls, and says what is wrong without it", function()
        local err, code = chunks:run([[
            print(select(2, mtls.request({ timeout = 5000 }, "https://localhost:1/", {})))
        ]]):match("^(.*)\t([%w_]+)\n$")
        assert.equals("connect_refused", code)
        assert.matches("connect_refused", err, 1, true)
    end)

    it("says that the certificate of an SSL object is wrong", function()
        assert.matches("key mismatch: 'tls.client_cert_id'", chunks:run([[
            router.stand_in.ssls.mixed = { type = "client", cert = cert, key = other_key }
            print(select(2, mtls.request({ ]] .. CONF .. [[, tls = { client_cert_id = "mixed" } },
                uri, {})))
        ]]), 1, true)
    end)
end)


describe("the stand-ins for APISIX", function()
    it("fail on what they do not know", function()
        for _, use in ipairs({ "core.request.headers", "core.new = 1", "router.router_http",
                               "core.schema.check({ format = 'ipv4' }, {})" }) do
            assert.has_error(function()
                chunks:run(use:find("[=(]") and use or "print(" .. use .. ")")
            end)
        end
    end)
end)
