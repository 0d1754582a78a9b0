local call = require("spec.support.call")
local certs = require("spec.support.certs")
local gnutls = require("spec.support.gnutls")
local httpd = require("spec.support.httpd")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local peer = require("spec.support.peer")


local gateway


local function options_for(server, identity)
    return {
        scheme = "https", host = "localhost", port = server.port,
        ssl_trusted_certificate = certs.path("ca.crt"),
        ssl_cert = identity and certs.read(identity .. ".crt"),
        ssl_key = identity and certs.read(identity .. ".key"),
        request = { path = "/echo" },
    }
end


-- The outcomes of the same call, several times in plain luajit and inside nginx: what a server says
-- before it closes must not get lost by chance.
local function outcomes(options, times)
    local list = {}
    for _ = 1, times or 1 do
        list[#list + 1] = call.make(options)
        list[#list + 1] = call.inside(gateway, options, "access")
    end
    return list
end


local function assert_failed(outcome, at, code, alert)
    assert.same({ at = at, code = code, alert = alert, type = "string" },
                { at = outcome.at, code = (outcome.details or {}).code, type = outcome.err_type,
                  alert = (outcome.details or {}).alert }, outcome.err)
    assert.equals("string", type(outcome.details.hint))
end


-- One call to a server that is stopped afterwards, in plain luajit and inside nginx.
local function calls_to(server, options)
    local list = outcomes(options or options_for(server))
    server:stop()
    return ipairs(list)
end


setup(function() gateway = nginx.gateway() end)

teardown(function() gateway:stop() end)


describe("a server that demands a client certificate", function()
    -- With the alerts that each server ends the handshake with, on TLS 1.2 and 1.3.
    for _, kind in ipairs({
        { name = "openssl s_server", start = openssl_server.start,
          none = { 40, 116 }, other = { 48, 48 }, expired = { 45, 45 } },
        { name = "httpd", start = httpd.start,
          none = { 40, 116 }, other = { 48, 48 }, expired = { 45, 45 } },
        { name = "gnutls-serv", start = gnutls.start,
          none = { 50, 116 }, other = { 49, 49 }, expired = { 49, 49 } },
    }) do
        for i, version in ipairs({ "1.2", "1.3" }) do
            describe("(" .. kind.name .. ", TLS " .. version .. ")", function()
                local server
                -- TLS 1.3 servers judge the certificate after the client believes it is connected.
                local at = version == "1.2" and "connect" or "request"
                local stage = version == "1.2" and "tls" or "response"

                setup(function()
                    server = kind.start({ client_ca = "ca", version = version })
                end)

                teardown(function() server:stop() end)

                local function rejections(identity)
                    return ipairs(outcomes(options_for(server, identity), 8))
                end

                it("serves a caller with a good one", function()
                    for _, outcome in ipairs(outcomes(options_for(server, "client-a"))) do
                        assert.equals(200, outcome.status, outcome.err)
                    end
                end)

                it("and gets none gives client_certificate_required", function()
                    for _, outcome in rejections(nil) do
                        assert_failed(outcome, at, "client_certificate_required",
                                      kind.none[i])
                        assert.equals(stage, outcome.details.stage)
                        assert.matches("handshake failed", outcome.err)
                        assert.matches("set ssl_cert and ssl_key", outcome.details.hint)
                    end
                end)

                it("and gets one of another CA gives client_certificate_unknown_ca", function()
                    for _, outcome in rejections("client-other-ca") do
                        assert_failed(outcome, at, "client_certificate_unknown_ca",
                                      kind.other[i])
                        assert.equals(stage, outcome.details.stage)
                        assert.matches("handshake failed", outcome.err)
                        assert.matches("your certificate in ssl_cert is issued by O=Example, "
                                       .. "CN=Other CA", outcome.details.hint, 1, true)
                    end
                end)

                it("and gets an expired one gives client_certificate_expired", function()
                    for _, outcome in rejections("client-expired") do
                        assert_failed(outcome, at, "client_certificate_expired",
                                      kind.expired[i])
                        assert.matches("ssl_cert", outcome.details.hint)
                    end
                end)

                it("and gets an expired one gives a hint that says so", function()
                    local outcome = call.make(options_for(server, "client-expired"))
                    assert.matches("has expired", outcome.details.hint)
                end)
            end)
        end
    end

    it("of a kind that its key cannot sign for gives client_certificate_rejected", function()
        for _, version in ipairs({ "1.2", "1.3" }) do
            local server = openssl_server.start({
                client_ca = "ca", version = version,
                args = { "-client_sigalgs", "rsa_pss_rsae_sha256:RSA+SHA256" },
            })
            assert.equals(200, call.make(options_for(server, "client-rsa")).status)
            for _, outcome in calls_to(server, options_for(server, "client-ed25519")) do
                assert.equals("connect", outcome.at)
                assert.equals("client_certificate_rejected", outcome.details.code)
                assert.matches("ssl_key", outcome.details.hint, 1, true)
            end
        end
    end)

    it("gives request_uri the same error", function()
        local server = openssl_server.start({ client_ca = "ca", version = "1.3" })
        local res, err, details = require("resty.mtls.http").new():request_uri(
            "https://localhost:" .. server.port .. "/",
            { ssl_trusted_certificate = certs.path("ca.crt") })
        server:stop()
        assert.is_nil(res)
        assert.matches("^handshake failed", err)
        assert.equals("client_certificate_required", details.code)
        assert.equals(116, details.alert)
    end)
end)


describe("a server certificate", function()
    local function refusals(identity, code)
        local server = openssl_server.start({ cert = identity })
        local list = outcomes(options_for(server))
        server:stop()
        for _, outcome in ipairs(list) do
            assert_failed(outcome, "connect", code)
            assert.equals("tls", outcome.details.stage)
            assert.matches("handshake failed", outcome.err)
        end
        return list[1].err, list[1].details.hint
    end

    it("of an unknown CA gives server_certificate_untrusted", function()
        for _, identity in ipairs({ "server-unknown-ca", "server-self-signed" }) do
            local err, hint = refusals(identity, "server_certificate_untrusted")
            assert.matches("unable to get local issuer certificate", err)
            assert.matches("ssl_trusted_certificate", hint)
        end
    end)

    it("without its intermediate CA gives server_certificate_untrusted", function()
        local server = openssl_server.start({ cert = "server-chained", args = {
            "-cert_chain", certs.path("server-chained.leaf.crt"),
        } })
        for _, outcome in calls_to(server) do
            assert_failed(outcome, "connect", "server_certificate_untrusted")
            assert.matches("intermediate", outcome.details.hint)
        end
    end)

    it("that has expired gives server_certificate_expired", function()
        local err, hint = refusals("server-expired", "server_certificate_expired")
        assert.matches("certificate has expired", err)
        assert.matches("clock", hint)
    end)

    it("that is not valid yet gives server_certificate_not_yet_valid", function()
        assert.matches("not valid yet", (refusals("server-not-yet-valid",
                                                  "server_certificate_not_yet_valid")))
    end)

    it("for another name gives server_name_mismatch, with the names that it has", function()
        local err, hint = refusals("server-wrong-name", "server_name_mismatch")
        assert.matches("certificate host mismatch", err)
        assert.matches("localhost", err)
        assert.matches("elsewhere.example, *.elsewhere.example", hint, 1, true)
        assert.matches("ssl_server_name", hint)
    end)

    it("without subjectAltName gives server_name_mismatch, which says so", function()
        local err, hint = refusals("server-no-san", "server_name_mismatch")
        assert.matches("certificate host mismatch", err)
        assert.matches("no subjectAltName", hint)
    end)

    it("for clients gives server_certificate_invalid", function()
        assert.matches("usage", (refusals("server-client-usage", "server_certificate_invalid")))
    end)

    it("that is refused keeps the client certificate from being sent", function()
        local server = peer.start({ tls = { cert = "server-unknown-ca", client_ca = "ca" },
                                    script = {} })
        local outcome = call.make(options_for(server, "client-a"))
        assert.equals("server_certificate_untrusted", outcome.details.code)
        server:wait_for_event("handshake failed: tlsv1 alert unknown ca")
        server:stop()
    end)
end)


describe("a server that speaks no TLS that we do", function()
    -- SECLEVEL=0 is where OpenSSL still knows these.
    for _, version in ipairs({ "tls1", "tls1_1" }) do
        it("gives tls_protocol_version for " .. version, function()
            local server = openssl_server.start({ args = { "-" .. version, "-cipher",
                                                           "ALL:@SECLEVEL=0" } })
            for _, outcome in calls_to(server) do
                assert_failed(outcome, "connect", "tls_protocol_version", 70)
                assert.equals("tls", outcome.details.stage)
                assert.matches("handshake failed", outcome.err)
                assert.matches("TLS 1.2 and 1.3", outcome.details.hint, 1, true)
            end
        end)
    end

    it("gives tls_protocol_version if it answers with an older version", function()
        local hello = "\2\0\0\38\3\2" .. ("r"):rep(32) .. "\0\192\19\0"
        local server = peer.start({ script = {
            peer.receive(5), peer.send("\22\3\2\0" .. string.char(#hello) .. hello),
            peer.receive_to_end(),
        } })
        for _, outcome in calls_to(server) do
            assert_failed(outcome, "connect", "tls_protocol_version")
        end
    end)

    it("gives tls_protocol_version for a plain http port", function()
        local server = nginx.upstream()
        for _, outcome in calls_to(server, options_for({ port = server.ports.plain })) do
            assert_failed(outcome, "connect", "tls_protocol_version")
            assert.matches("does not speak TLS on this port", outcome.err)
            assert.matches("port", outcome.details.hint)
        end
    end)
end)


describe("another alert", function()
    it("gives its number and name", function()
        for alert, case in pairs({
            [40] = { code = "tls_no_common_cipher", "-tls1_2", "-cipher", "AES128-SHA" },
            [112] = { code = "tls_alert", "-servername", "other.test", "-servername_fatal",
                      "-cert2", certs.path("server.crt"), "-key2", certs.path("server.key") },
        }) do
            local server = openssl_server.start({ cert = "server-rsa", args = case })
            for _, outcome in calls_to(server) do
                assert_failed(outcome, "connect", case.code, alert)
                assert.equals("tls", outcome.details.stage)
                assert.matches("^handshake failed: .*TLS alert " .. alert .. ", %a", outcome.err)
            end
        end
    end)
end)


describe("a server that closes without an alert", function()
    local ends = { close = peer.close(), cut = peer.cut(), reset = peer.reset() }

    it("in the handshake gives closed at connect", function()
        for _, script in ipairs({ { peer.close() }, { peer.receive(5) },
                                  { peer.receive(5), peer.reset() } }) do
            for _, outcome in calls_to(peer.start({ script = script })) do
                assert_failed(outcome, "connect", "closed")
                assert.equals("closed", outcome.err)
                assert.equals("tls", outcome.details.stage)
                assert.matches("port speaks TLS", outcome.details.hint)
            end
        end
    end)

    for how, step in pairs(ends) do
        for _, version in ipairs({ "1.2", "1.3" }) do
            it("after a handshake on TLS " .. version .. " gives closed (" .. how .. ")", function()
                local server = peer.start({ tls = { version = version }, script = { step } })
                for _, outcome in calls_to(server) do
                    assert_failed(outcome, "request", "closed")
                    assert.equals("closed", outcome.err)
                    assert.matches("log", outcome.details.hint)
                    assert.not_matches("ssl_cert", outcome.details.hint)
                end
            end)

            it("after it got a client certificate on TLS " .. version .. " gives a hint at it ("
                .. how .. ")", function()
                local server = peer.start({ tls = { version = version, client_ca = "ca" },
                                            script = { step } })
                for _, outcome in calls_to(server, options_for(server, "client-a")) do
                    assert_failed(outcome, "request", "closed")
                    assert.matches("ssl_cert", outcome.details.hint)
                end
            end)
        end
    end

    it("after it asked for a client certificate in vain gives a hint at ssl_cert", function()
        local server = peer.start({ tls = { client_ca = "ca", optional = true },
                                    script = { peer.close() } })
        for _, outcome in calls_to(server) do
            assert_failed(outcome, "request", "closed")
            assert.matches("ssl_cert and ssl_key", outcome.details.hint)
        end
    end)
end)
