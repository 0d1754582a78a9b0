-- http.diagnose: what it tells, and that it raises nothing.
local certs = require("spec.support.certs")
local diagnosis = require("spec.support.diagnosis")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local ports = require("spec.support.ports")
local secure = require("spec.support.secure")

local as = diagnosis.as
local assert_clean, assert_found = diagnosis.assert_clean, diagnosis.assert_found


-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()

local places


setup(function() places = diagnosis.places() end)

teardown(function() places:stop() end)


describe("diagnose of mutual TLS that works", function()
    for _, version in ipairs({ "TLSv1.2", "TLSv1.3" }) do
        it("says so, on " .. version, function()
            for _, report in places:look_at(nginx.upstream({ protocols = version }),
                                            as("client-a", { path = "/echo?token=secret" })) do
                assert_clean(report)
                assert.equals("accepted", report.client.result)
                assert.matches("accepts the client certificate", report.verdict)
                assert.same({ path = "/echo?...", status = 200, reason = "OK" }, report.request)
            end
        end)
    end

    it("tells everything about the connection", function()
        local server = nginx.upstream()
        for _, report in places:look_at(server, as("client-chained")) do
            assert_clean(report)
            assert.equals("localhost", report.host)
            assert.equals(server.port, report.port)
            assert.equals("localhost", report.server_name)
            assert.equals("127.0.0.1:" .. server.port, report.address)
            assert.equals("TLSv1.3", report.version)
            assert.matches("^TLS_", report.cipher)
            assert.equals("http/1.1", report.alpn)
            assert.is_false(report.resumed)
            for _, step in ipairs({ "resolve", "connect", "tls" }) do
                assert.equals("number", type(report[step]), step)
            end
            assert.is_true(report.server.trusted)
            assert.is_true(report.server.complete)
            assert.is_true(report.server.name_matches)
            assert.equals("O=Example, CN=server", report.server.chain[1].subject)
            assert.is_true(report.client.requested)
            assert.same({ "O=Example, CN=Test CA" }, report.client.acceptable_cas)
            assert.equals("O=Example, CN=client-chained", report.client.offered.subject)
            assert.equals(2, #report.identity.chain)
            assert.same({}, report.identity.faults)
            assert.equals("ssl_cert_path", report.identity.certificate_option)
        end
    end)

    it("without a path says that acceptance is not known, and makes no request", function()
        local server = peer.start({ tls = { client_ca = "ca" },
                                    script = { peer.receive_to_end() } })
        for i, report in places:look_at(server, secure.as("client-a")) do
            assert_clean(report)
            assert_found(report, "note", "client_certificate_unknown", "give a path")
            assert.equals("unknown", report.client.result)
            assert.is_nil(report.request)
            assert.equals("", server:received(i))
        end
    end)

    it("may be repeated", function()
        local server = nginx.upstream()
        for _ = 1, 3 do
            for _, report in ipairs(places:reports(server, as("client-a"))) do
                assert_clean(report)
                assert.equals("accepted", report.client.result)
                assert.is_false(report.resumed)
            end
        end
        server:stop()
    end)

    it("works without client certificates", function()
        local off, optional = { verify = "off" }, { verify = "optional" }
        for _, report in places:look_at(nginx.upstream(off), { path = "/echo" }) do
            assert_clean(report)
            assert.equals("not_requested", report.client.result)
            assert.is_false(report.client.requested)
            assert.is_nil(report.identity)
        end
        for _, report in places:look_at(nginx.upstream(optional), { path = "/echo" }) do
            assert_clean(report)
            assert_found(report, "note", "client_certificate_not_given", "all the same")
            assert.equals("not_given", report.client.result)
        end
    end)

    it("leaves no connection behind, and takes none from the pool", function()
        local server = nginx.upstream()
        local before = http.stats()
        http.diagnose(secure.options(server, as("client-a", { pool = "mine" })))
        local after = http.stats()
        server:stop()
        assert.equals(before.connections_opened + 1, after.connections_opened)
        for _, name in ipairs({ "connections_idle", "connections_reused" }) do
            assert.equals(before[name], after[name], name)
        end
    end)
end)


describe("diagnose of no TLS server", function()
    it("finds that nobody listens", function()
        for _, report in ipairs(places:reports({ port = ports.free() }, as("client-a"))) do
            assert_found(report, "fault", "connect_refused")
            assert.equals("connect", report.stage)
            assert.equals("unknown", report.client.result)
            assert.same({}, report.server.chain)
            assert.is_nil(report.version)
        end
    end)

    it("finds that there is no such host", function()
        for _, report in ipairs(places:reports_of({ host = "no-such-host.invalid" })) do
            assert_found(report, "fault", "dns_failed")
            assert.equals(443, report.port)
        end
    end)

    it("finds a port of plain http", function()
        local server = nginx.upstream()
        server.port = server.ports.plain
        for _, report in places:look_at(server) do
            assert_found(report, "fault", "tls_protocol_version", "does not speak TLS")
            assert.matches("does not speak TLS on this port", report.verdict)
        end
    end)

    it("gives up on one that says nothing", function()
        local server = peer.start({ script = { peer.hang() } })
        for _, report in places:look_at(server, { timeout = 100 }) do
            assert_found(report, "fault", "tls_timeout")
            assert.equals("Connected, but no TLS handshake in time.", report.verdict)
        end
    end)

    it("gives up on one that does not answer the request", function()
        local server = peer.start({ tls = {}, script = { peer.hang() } })
        for _, report in places:look_at(server, { timeout = 500, path = "/" }) do
            assert_found(report, "fault", "read_timeout")
            assert.same({ path = "/" }, report.request)
            assert.matches("no answer to the request", report.verdict)
        end
    end)

    it("finds one that closes", function()
        local server = peer.start({ script = { peer.receive(5), peer.close() } })
        for _, report in places:look_at(server) do
            assert_found(report, "fault", "closed")
            assert.equals("The server closed the connection during the handshake.",
                          report.verdict)
        end
    end)
end)


describe("diagnose", function()
    it("raises nothing, whatever it is given", function()
        for _, options in ipairs({ {}, { host = 42 }, { host = "localhost", port = "x" },
                                   { host = "localhost", path = 42 },
                                   { host = "localhost", scheme = "http" },
                                   { host = "localhost", ssl_cert = 42 },
                                   { host = "localhost", ssl_server_name = 42 },
                                   { host = "localhost", ssl_cert = "x" } }) do
            for _, report in ipairs(places:reports_of(options)) do
                assert.is_false(report.ok)
                assert.equals("bad_argument", report.code, report.error)
                assert_found(report, "fault", "bad_argument")
            end
        end
        assert.equals("bad_argument", http.diagnose().code)
        assert.equals("bad_argument", http.diagnose("localhost").code)
    end)

    it("leaves its options alone", function()
        local options = { host = "localhost", port = ports.free(), pool_size = 3 }
        http.diagnose(options)
        assert.same({ host = "localhost", port = options.port, pool_size = 3 }, options)
    end)

    it("says where nginx cannot wait", function()
        local output = places.gateway:run([[
            print(require("resty.mtls.http").diagnose({ host = "localhost" }).code)
        ]], { phase = "header_filter" })
        assert.equals("api_disabled\n", output)
    end)

    it("tells no key, no passphrase and no query", function()
        local identity = { ssl_cert = certs.read("client-a.crt"),
                           ssl_key = certs.read("client-a.encrypted.key"),
                           ssl_key_password = certs.PASSPHRASE }
        local json = require("resty.mtls.check.json")
        local server = nginx.upstream()
        for _, password in ipairs({ certs.PASSPHRASE, "some other one" }) do
            identity.ssl_key_password, identity.path = password, "/echo?token=hidden"
            for _, report in ipairs(places:reports(server, identity)) do
                local said = json.encode(report)
                require("spec.support.identity").assert_tells_no_secret(said, identity)
                assert.not_matches("hidden", said)
            end
        end
        server:stop()
    end)
end)
