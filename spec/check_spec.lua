-- bin/resty-mtls-check against real servers.
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local httpd = require("spec.support.httpd")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local pkcs12 = require("spec.support.certs.pkcs12")
local ports = require("spec.support.ports")
local process = require("spec.support.process")
local tells_no_secret = require("spec.support.identity").assert_tells_no_secret

local COMMAND = fs.repo .. "/bin/resty-mtls-check"

local upstream


-- Runs it in another folder, so that nothing is found by chance.
local function run(arguments, opts)
    local argv = { opts and opts.command or COMMAND, unpack(arguments) }
    return process.run(argv, { cwd = "/", env = opts and opts.env })
end


local function target(server)
    return "localhost:" .. server.port
end


-- Arguments with the CA of the specs and a client certificate.
local function as(identity, ...)
    local arguments = { "--ca", certs.path("ca.crt"), ... }
    if identity then
        for _, argument in ipairs({ "--cert", certs.path(identity .. ".crt"),
                                    "--key", certs.path(identity .. ".key") }) do
            arguments[#arguments + 1] = argument
        end
    end
    return arguments
end


local function last_line(output)
    return output:match("([^\n]*)\n$")
end


local function with_json(arguments)
    arguments[#arguments + 1] = "--json"
    local result = run(arguments)
    return cjson.decode(result.stdout), result
end


setup(function() upstream = nginx.upstream() end)

teardown(function() upstream:stop() end)


describe("resty-mtls-check of a server that works", function()
    it("ends with 0 and says so", function()
        local result = run(as("client-chained", target(upstream), "--path", "/echo?a=b"))
        assert.equals(0, result.code, result.stdout .. result.stderr)
        assert.equals("", result.stderr)
        for _, phrase in ipairs({
            "localhost:" .. upstream.port, "127.0.0.1:" .. upstream.port, "TLSv1.3",
            "O=Example, CN=server", "O=Example, CN=client-chained",
            "O=Example, CN=Test Intermediate CA", "2020-01-01 to 2049-12-31", "ECDSA P-256",
            "localhost, target.server, 127.0.0.1", "200 OK",
        }) do
            assert.matches(phrase, result.stdout, 1, true)
        end
        assert.equals("OK: No fault found: the server's certificate is trusted, and the server "
            .. "accepts the client certificate.", last_line(result.stdout))
    end)

    it("says so in JSON", function()
        local report, result = with_json(as("client-a", "https://localhost:" .. upstream.port
            .. "/echo"))
        assert.equals(0, result.code)
        assert.is_true(report.ok)
        assert.equals("accepted", report.client.result)
        assert.equals("/echo", report.request.path)
        assert.matches('"findings": []', result.stdout, 1, true)
        assert.matches('"faults": []', result.stdout, 1, true)
    end)

    it("without a path says what is not known", function()
        local result = run(as("client-a", target(upstream)))
        assert.equals(0, result.code)
        assert.matches("is not known until a request is made", last_line(result.stdout))
    end)

    it("takes every option", function()
        local result = run(as("client-a", "https://127.0.0.1:" .. upstream.port .. "/echo",
            "--server-name=target.server", "--min-version", "TLSv1.2", "--max-version", "TLSv1.2",
            "--timeout", "5000", "--ca", certs.path("other-ca.crt"), "--pin",
            require("spec.support.certs.pins").of("server")))
        assert.equals(0, result.code, result.stdout)
        assert.matches("TLSv1.2", result.stdout, 1, true)
        assert.matches("target.server", result.stdout, 1, true)
    end)

    it("warns of what --insecure lets pass", function()
        local server = openssl_server.start({ cert = "server-expired" })
        local result = run({ target(server), "--insecure", "--path", "/" })
        server:stop()
        assert.equals(0, result.code, result.stdout)
        assert.matches("EXPIRED", result.stdout)
        assert.matches("2 warnings", last_line(result.stdout))
    end)

    it("reaches IPv6 addresses", function()
        if not ports.has_ipv6() then
            return pending("no IPv6 on the loopback")
        end
        local server = nginx.start({ http = [[
            ssl_certificate ${cert.server.crt};
            ssl_certificate_key ${cert.server.key};
            server { listen [::1]:${port.six} ssl; }
        ]] })
        local result = run(as(nil, "[::1]:" .. server.port, "--server-name", "localhost"))
        server:stop()
        assert.equals(0, result.code, result.stdout)
        assert.matches("[::1]:" .. server.port, result.stdout, 1, true)
    end)
end)


describe("resty-mtls-check of a fault", function()
    local function assert_fault(result, phrase)
        assert.equals(1, result.code, result.stdout .. result.stderr)
        assert.matches("^FAULT: ", last_line(result.stdout))
        assert.matches(phrase, last_line(result.stdout))
    end

    it("ends with 1 if nginx answers 400", function()
        assert_fault(run(as(nil, target(upstream), "--path", "/echo")), "none was sent")
        assert_fault(run(as("client-other-ca", target(upstream), "--path", "/echo")),
                     "rejected the client certificate .it answered 400.: .*Other CA")
    end)

    it("ends with 1 if s_server sends an alert", function()
        for _, version in ipairs({ "1.2", "1.3" }) do
            local server = openssl_server.start({ client_ca = "ca", version = version })
            assert_fault(run(as("client-expired", target(server))), "has expired")
            local report, result = with_json(as("client-expired", target(server)))
            server:stop()
            assert.equals(1, result.code)
            assert.matches("has expired", report.verdict)
            assert.equals("client_certificate_expired", report.code)
            assert.equals(45, report.alert)
        end
    end)

    it("ends with 1 if httpd asks too late", function()
        local server = httpd.start({
            verify = "none", config = "<Location /echo>\nSSLVerifyClient require\n</Location>",
        })
        local result = run(as("client-a", target(server), "--path", "/echo"))
        server:stop()
        assert_fault(result, "asked for no client certificate during the handshake")
        assert.matches("SSLVerifyClient require", result.stdout, 1, true)
    end)

    it("ends with 1 if the server is not trusted or speaks no TLS", function()
        assert_fault(run({ target(upstream) }), "not trusted")
        assert_fault(run({ "localhost:" .. upstream.ports.plain }), "does not speak TLS")
    end)

    it("ends with 1 if the identity is useless, even where nobody listens", function()
        local result = run({ "localhost:" .. ports.free(), "--cert", certs.path("client-a.crt"),
                             "--key", certs.path("client-b.key") })
        assert_fault(result, "Key mismatch")
    end)

    it("ends with 3 if there is no connection", function()
        for _, place in ipairs({ "localhost:" .. ports.free(), "no-such-host.invalid" }) do
            local result = run(as("client-a", place))
            assert.equals(3, result.code, result.stdout)
            assert.matches("^FAULT: ", last_line(result.stdout))
            assert.equals(3, run(as("client-a", place, "--json")).code)
        end
    end)

    it("ends with 2 for a wrong usage, which is told on stderr", function()
        for _, arguments in ipairs({ {}, { "--nonsense", "h" }, { "h", "--key", "k" } }) do
            local result = run(arguments)
            assert.equals(2, result.code)
            assert.equals("", result.stdout)
            assert.matches("^resty%-mtls%-check: ", result.stderr)
        end
        assert.equals(2, run({ "h", "--pin", "nonsense" }).code)
    end)
end)


describe("resty-mtls-check with a certificate and no --key", function()
    local phrase = "the key was looked for in the file of --cert: give --key"

    local function check(...)
        return (with_json({ "localhost:1", "--cert", ... }))
    end

    it("says where it has looked for the key", function()
        local report = check(certs.path("client-a.crt"))
        assert.equals("bad_key_pem", report.code)
        assert.matches(phrase, report.hint, 1, true)
        assert.matches(phrase, report.findings[1].hint, 1, true)
        local result = run({ "localhost:1", "--cert", certs.path("client-a.crt") })
        assert.matches("looked for in the file of --cert", result.stdout, 1, true)
    end)

    it("does not say so of another fault, or of a --key that was given", function()
        assert.not_matches(phrase, check(certs.path("client-a.key")).hint, 1, true)
        local path = certs.path("client-a.crt")
        assert.not_matches(phrase, check(path, "--key", path).hint, 1, true)
    end)
end)


describe("resty-mtls-check with a passphrase", function()
    local password_file

    setup(function()
        password_file = fs.temp_dir("password") .. "/password"
        fs.write(password_file, certs.PASSPHRASE .. "\n")
    end)

    local function assert_decrypts(arguments, env, code)
        for _, form in ipairs({ "--timeout=5000", "--json" }) do
            local all = { target(upstream), "--path", "/echo", "--ca", certs.path("ca.crt"), form,
                          unpack(arguments) }
            local result = run(all, { env = env })
            assert.equals(code, result.code, result.stdout)
            local secrets = { ssl_key_password = certs.PASSPHRASE,
                              ssl_key = certs.path("client-a.encrypted.key"),
                              ssl_cert = certs.path("client-a.key") }
            tells_no_secret(result.stdout .. result.stderr, secrets)
        end
    end

    it("decrypts a key", function()
        local encrypted = { "--cert", certs.path("client-a.crt"),
                            "--key", certs.path("client-a.encrypted.key") }
        assert_decrypts(encrypted, { RESTY_MTLS_KEY_PASSWORD = certs.PASSPHRASE }, 0)
        assert_decrypts(encrypted, { RESTY_MTLS_KEY_PASSWORD = "wrong" }, 1)
        assert_decrypts(encrypted, nil, 1)
        encrypted[#encrypted + 1] = "--key-password-file=" .. password_file
        assert_decrypts(encrypted, nil, 0)
        -- What is on the command line wins.
        assert_decrypts(encrypted, { RESTY_MTLS_KEY_PASSWORD = "wrong" }, 0)
    end)

    it("decrypts a PKCS#12 file", function()
        local identity = { "--pkcs12", pkcs12.path("client-a") }
        assert_decrypts(identity, { RESTY_MTLS_KEY_PASSWORD = certs.PASSPHRASE }, 0)
        assert_decrypts(identity, { RESTY_MTLS_KEY_PASSWORD = "wrong" }, 1)
    end)

    it("takes certificate and key from one file", function()
        local path = fs.temp_dir("both") .. "/both.pem"
        fs.write(path, certs.read("client-a.crt") .. certs.read("client-a.encrypted.key"))
        assert_decrypts({ "--cert", path }, { RESTY_MTLS_KEY_PASSWORD = certs.PASSPHRASE }, 0)
    end)
end)


describe("resty-mtls-check", function()
    it("tells its version and its options", function()
        local result = run({ "--version" })
        assert.equals(0, result.code)
        assert.equals("resty-mtls-check " .. require("resty.mtls.http")._VERSION .. "\n",
                      result.stdout)
        result = run({ "--help" })
        assert.equals(0, result.code)
        for option in ("cert key key-password-file pkcs12 ca crl pin server-name min-version "
            .. "max-version http-version insecure path timeout json help version"):gmatch("%S+") do
            assert.matches("--" .. option, result.stdout, 1, true)
        end
    end)

    it("runs through a symbolic link", function()
        local link = fs.temp_dir("bin") .. "/check"
        assert(lfs.link(COMMAND, link, true))
        assert.equals(0, run({ "--version" }, { command = link }).code)
    end)

    it("is content with resty where there is no luajit", function()
        -- A stand-in for OpenResty's command, which Debian does not have.
        local bin = fs.temp_dir("bin")
        for _, tool in ipairs({ "sh", "dirname", "readlink" }) do
            assert(lfs.link(process.check({ "which", tool }):gsub("\n", ""), bin .. "/" .. tool,
                            true))
        end
        local luajit = process.check({ "which", "luajit" }):gsub("\n", "")
        local function go()
            return process.run({ "/bin/sh", COMMAND, "--version" }, { env = { PATH = bin } })
        end
        if not fs.exists("/usr/local/openresty") then
            local result = go()
            assert.equals(2, result.code)
            assert.matches("neither luajit nor resty", result.stderr)
        end
        fs.write(bin .. "/resty", "#!/bin/sh\nexec '" .. luajit .. "' \"$@\"\n")
        process.check({ "chmod", "755", bin .. "/resty" })
        assert.matches("^resty%-mtls%-check ", go().stdout)
    end)

    it("says so if it is away from the library", function()
        local copy = fs.temp_dir("bin") .. "/resty-mtls-check"
        fs.write(copy, assert(fs.read(COMMAND)))
        local result = process.run({ "/bin/sh", copy, "--version" })
        assert.equals(2, result.code)
        assert.matches("the library is not", result.stderr)
    end)
end)
