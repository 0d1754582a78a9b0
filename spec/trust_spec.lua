local call = require("spec.support.call")
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local upstream = require("spec.support.nginx.upstream")


-- What a chunk has to know for `go{}`: one call, and how it went in a word.
local PRELUDE = [[
    local call, http = require("spec.support.call"), require("resty.mtls.http")
    local function go(options)
        options.scheme, options.host = "https", options.host or "localhost"
        options.port = options.port or ${up}
        options.request = { path = "/echo" }
        local outcome = call.make(options)
        print(outcome.status or outcome.details.code)
    end
]]


local servers = {}

-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()


-- A server with that certificate, which asks callers for nothing.
local function server_of(identity)
    servers[identity] = servers[identity] or nginx.upstream({ cert = identity, verify = "off" })
    return servers[identity]
end


local function make(identity, options)
    options.scheme, options.host = "https", options.host or "localhost"
    options.port = options.port or server_of(identity).port
    options.request = { path = "/echo", headers = { Host = "localhost" } }
    return call.make(options)
end


local function code_of(identity, options)
    local outcome = make(identity, options)
    return outcome.status or outcome.details.code
end


local function stop_servers()
    for identity, server in pairs(servers) do
        server:stop()
        servers[identity] = nil
    end
end


describe("ssl_trusted_certificate", function()
    teardown(stop_servers)

    it("takes CAs as text and as a path", function()
        assert.equals(200, code_of("server", { ssl_trusted_certificate = certs.read("ca.crt") }))
        assert.equals(200, code_of("server", { ssl_trusted_certificate = certs.path("ca.crt") }))
    end)

    it("trusts nobody else", function()
        for _, trusted in ipairs({ certs.read("other-ca.crt"), certs.path("other-ca.crt") }) do
            assert.equals("server_certificate_untrusted",
                          code_of("server", { ssl_trusted_certificate = trusted }))
        end
    end)

    it("takes several CAs", function()
        local both = certs.read("other-ca.crt") .. certs.read("ca.crt")
        assert.equals(200, code_of("server", { ssl_trusted_certificate = both }))
        assert.equals(200, code_of("server-unknown-ca", { ssl_trusted_certificate = both }))
    end)

    it("needs only the root of a chain that the server sends", function()
        local root = certs.read("ca.crt")
        assert.equals(200, code_of("server-chained", { ssl_trusted_certificate = root }))
    end)

    it("is refused before anything is sent if it has no certificate", function()
        for _, case in ipairs({
            { fs.temp_dir("trust") .. "/missing.pem", "bad_certificate_pem" },
            { certs.path("client-a.key"), "bad_certificate_pem" },
            { certs.read("client-a.key"), "bad_certificate_pem" },
            { "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
              "bad_certificate_pem" },
            { certs.read("ca.crt"):sub(1, 300), "bad_certificate_pem" },
            { 42, "bad_argument" },
            { "", "bad_argument" },
        }) do
            local outcome = make("server", { ssl_trusted_certificate = case[1] })
            assert.equals("connect", outcome.at)
            assert.equals(case[2], outcome.details.code, outcome.err)
            assert.equals("options", outcome.details.stage)
            assert.matches("'ssl_trusted_certificate'", outcome.err, 1, true)
        end
    end)
end)


describe("without ssl_trusted_certificate", function()
    teardown(stop_servers)

    local chunk = PRELUDE .. [[ go({}) go({ ssl_trusted_certificate = ${pem.other-ca.crt} }) ]]

    it("the system's CAs are trusted in plain luajit", function()
        local vars = { up = server_of("server").port }
        assert.equals("200\nserver_certificate_untrusted\n", plain.run_lua(chunk, {
            vars = vars, env = { SSL_CERT_FILE = certs.path("ca.crt") },
        }))
        assert.equals("server_certificate_untrusted\nserver_certificate_untrusted\n",
                      plain.run_lua(chunk, { vars = vars }))
    end)

    it("the system's CAs are trusted in nginx", function()
        assert.equals("200\nserver_certificate_untrusted\n", nginx.run_lua(chunk, {
            vars = { up = server_of("server").port },
            env = { SSL_CERT_FILE = certs.path("ca.crt") },
        }))
    end)
end)


describe("http.set_defaults", function()
    teardown(stop_servers)

    it("in init_by_lua holds in the workers, and a call's own option wins", function()
        local gateway = nginx.gateway({ init = [[
            assert(require("resty.mtls.http").set_defaults({
                ssl_trusted_certificate = ${pem.ca.crt},
            }))
        ]] })
        local output = gateway:run(PRELUDE .. [[
            go({})
            go({ ssl_trusted_certificate = ${pem.other-ca.crt} })
            go({ ssl_trusted_certificate = ${pem.other-ca.crt}, ssl_verify = false })
            go({})
        ]], { vars = { up = server_of("server").port }, phase = "access" })
        gateway:stop()
        assert.equals("200\nserver_certificate_untrusted\n200\n200\n", output)
    end)

    it("turns verification off for calls that do not ask for it", function()
        assert.equals("200\nserver_certificate_untrusted\n200\n", plain.run_lua(PRELUDE .. [[
            assert(http.set_defaults({ ssl_verify = false }))
            go({})
            go({ ssl_verify = true })
            assert(http.set_defaults({ ssl_trusted_certificate = "${cert.ca.crt}",
                                       ssl_verify = true }))
            go({})
        ]], { vars = { up = server_of("server").port } }))
    end)

    it("refuses what it does not know, and changes nothing then", function()
        local http = require("resty.mtls.http")
        for _, case in ipairs({
            { { ssl_trusted_certifcate = "x" }, "ssl_trusted_certifcate" },
            { { ssl_cert = "x" }, "ssl_cert" },
            { { "x" }, "1" },
            { { ssl_verify = "yes" }, "ssl_verify" },
            { { ssl_verify = false, ssl_trusted_certificate = 1 }, "ssl_trusted_certificate" },
            { { ssl_verify = false, nonsense = 1 }, "nonsense" },
            { "text", "table" },
            { nil, "table" },
        }) do
            local ok, err, details = http.set_defaults(case[1])
            assert.is_nil(ok)
            assert.matches(case[2], err, 1, true)
            assert.equals("bad_argument", details.code)
        end
        assert.equals("server_certificate_untrusted", code_of("server", {}))
    end)
end)


describe("ssl_verify = false", function()
    teardown(stop_servers)

    it("accepts every server certificate", function()
        for _, identity in ipairs({ "server-expired", "server-not-yet-valid", "server-wrong-name",
                                    "server-no-san", "server-unknown-ca", "server-self-signed",
                                    "server-client-usage" }) do
            assert.equals(200, code_of(identity, { ssl_verify = false }), identity)
            assert.not_equals(200, code_of(identity, {
                ssl_trusted_certificate = certs.read("ca.crt"),
            }), identity)
        end
    end)

    it("is nothing but the boolean", function()
        for _, value in ipairs({ true, 0, "false" }) do
            assert.equals("server_certificate_untrusted",
                          code_of("server", { ssl_verify = value }))
        end
    end)

    local chunk = PRELUDE .. [[
        go({})
        go({ ssl_verify = false })
        go({ ssl_verify = false })
        go({ ssl_verify = false, ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key} })
        for name in pairs(package.loaded) do
            if name:find("^resty%.mtls%.") and name ~= "resty.mtls.native" then
                package.loaded[name] = nil
            end
        end
        http = require("resty.mtls.http")
        go({ ssl_verify = false, ssl_server_name = "target.server" })
    ]]
    local codes = "server_certificate_untrusted\n200\n200\n200\n200\n"

    it("warns once per process in plain luajit", function()
        local result = plain.run(chunk, { vars = { up = server_of("server").port } })
        assert.equals(codes, result.stdout)
        assert.matches("ssl_verify is false", result.stderr, 1, true)
        assert.equals(1, select(2, result.stderr:gsub("\n", "")), result.stderr)
    end)

    it("warns once per process in nginx's error log", function()
        local gateway = nginx.gateway()
        local opts = { vars = { up = server_of("server").port } }
        assert.equals(codes, gateway:run(chunk, opts))
        assert.equals(codes, gateway:run(chunk, opts))
        gateway:stop()
        local log = gateway:error_log()
        assert.equals(1, select(2, log:gsub("ssl_verify is false", "")), log)
        assert.matches("[warn] [^\n]*ssl_verify is false", (log:gsub("[%[%]]", "")))
    end)

    it("that is never used is never warned of", function()
        local result = plain.run(PRELUDE .. "go({})", { vars = { up = server_of("server").port } })
        assert.equals("", result.stderr)
    end)
end)


describe("the server's name", function()
    local trusted

    setup(function() trusted = certs.read("ca.crt") end)

    teardown(stop_servers)

    -- What the server got as SNI, "" for none; or the code of the error.
    local function sni(options, identity)
        options.ssl_trusted_certificate = trusted
        local outcome = make(identity or "server", options)
        return outcome.status and upstream.parse(outcome.body).server_name or outcome.details.code
    end

    it("is sent and checked as the host unless given", function()
        assert.equals("localhost", sni({}))
        assert.equals("LOCALHOST", sni({ host = "LOCALHOST" }):upper())
        assert.equals("server_name_mismatch", sni({}, "server-wrong-name"))
    end)

    it("is sent and checked as ssl_server_name", function()
        assert.equals("target.server", sni({ ssl_server_name = "target.server" }))
        assert.equals("server_name_mismatch", sni({ ssl_server_name = "other.server" }))
        assert.equals("elsewhere.example",
                      sni({ ssl_server_name = "elsewhere.example" }, "server-wrong-name"))
        assert.equals("a.elsewhere.example",
                      sni({ ssl_server_name = "a.elsewhere.example" }, "server-wrong-name"))
        -- A wildcard stands for one label.
        assert.equals("server_name_mismatch",
                      sni({ ssl_server_name = "a.b.elsewhere.example" }, "server-wrong-name"))
    end)

    it("is sent without verification too", function()
        assert.equals("localhost", sni({ ssl_verify = false }))
        assert.equals("x.test", sni({ ssl_verify = false, ssl_server_name = "x.test" }))
    end)

    it("may be an IP address, which is checked and not sent", function()
        assert.equals("", sni({ host = "127.0.0.1" }))
        assert.equals("", sni({ ssl_server_name = "127.0.0.1" }))
        assert.equals("server_name_mismatch", sni({ ssl_server_name = "127.0.0.2" }))
        assert.equals("server_name_mismatch", sni({ host = "127.0.0.1" }, "server-wrong-name"))
        assert.equals("localhost", sni({ host = "127.0.0.1", ssl_server_name = "localhost" }))
    end)

    it("has to be given for a unix socket unless nothing is verified", function()
        local host = "unix:" .. server_of("server").tls_socket
        assert.equals("localhost", sni({ host = host, ssl_server_name = "localhost" }))
        assert.equals("", sni({ host = host, ssl_verify = false }))
        local outcome = make("server", { host = host })
        assert.equals("bad_argument", outcome.details.code)
        assert.matches("missing 'ssl_server_name'", outcome.err, 1, true)
    end)

    it("that is none is refused", function()
        for _, name in ipairs({ "not a name", "a..b", 42, "" }) do
            local outcome = make("server", { ssl_server_name = name })
            assert.equals("bad_argument", outcome.details.code, outcome.err)
            assert.matches("'ssl_server_name'", outcome.err, 1, true)
        end
    end)
end)
