-- What http.diagnose finds about client certificates.
local certs = require("spec.support.certs")
local diagnosis = require("spec.support.diagnosis")
local fs = require("spec.support.fs")
local httpd = require("spec.support.httpd")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local peer = require("spec.support.peer")

local as = diagnosis.as
local assert_clean, assert_found = diagnosis.assert_clean, diagnosis.assert_found

certs.add({
    ["diagnose-ends-soon"] = { usage = "client", issuer = "ca", to = diagnosis.in_days(3) },
    ["diagnose-ends-later"] = { usage = "client", issuer = "ca", to = diagnosis.in_days(20) },
    ["diagnose-early"] = { usage = "client", issuer = "ca", from = "20480101000000Z" },
})

-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()

local places


setup(function() places = diagnosis.places() end)

teardown(function() places:stop() end)


describe("diagnose of a server that rejects the client", function()
    for _, version in ipairs({ "1.2", "1.3" }) do
        local function strict()
            return openssl_server.start({ client_ca = "ca", version = version })
        end

        for _, path in ipairs({ "/", false }) do
            local how = " (TLS " .. version .. (path and ", with a request)" or ", without one)")

            it("finds that a certificate is required" .. how, function()
                for _, report in places:look_at(strict(), { path = path }) do
                    assert_found(report, "fault", "client_certificate_required", "set ssl_cert")
                    assert.equals("client_certificate_required", report.code)
                    assert.equals("not_given", report.client.result)
                    assert.is_true(report.client.requested)
                    assert.matches("requires a client certificate", report.verdict)
                end
            end)

            it("finds that another CA has issued it" .. how, function()
                for _, report in places:look_at(strict(), as("client-other-ca", { path = path })) do
                    assert_found(report, "fault", "client_certificate_unknown_ca")
                    assert_found(report, "fault", "identity_chain_incomplete", "Other CA",
                                 "Test CA")
                    assert.equals("rejected", report.client.result)
                    assert.equals(48, report.alert)
                    assert.equals("O=Example, CN=client-other-ca", report.client.offered.subject)
                    assert.equals(1, #report.identity.faults)
                    assert.matches("rejected.*Other CA", report.verdict)
                end
            end)

            it("finds that it has expired" .. how, function()
                for _, report in places:look_at(strict(), as("client-expired", { path = path })) do
                    assert_found(report, "fault", "client_certificate_expired")
                    assert_found(report, "fault", "identity_expired", "2020-02-01")
                    assert.equals("rejected", report.client.result)
                    assert.matches("has expired", report.verdict)
                end
            end)
        end

        it("finds that its intermediate CA is missing (TLS " .. version .. ")", function()
            for _, report in places:look_at(strict(), {
                path = "/", ssl_cert_path = certs.path("client-chained.leaf.crt"),
                ssl_key_path = certs.path("client-chained.key"),
            }) do
                assert_found(report, "fault", "identity_chain_incomplete",
                             "Test Intermediate CA", "intermediate CA, put its certificate behind")
                assert.equals("rejected", report.client.result)
            end
        end)

        it("finds that it is not for clients (TLS " .. version .. ")", function()
            for _, report in places:look_at(strict(), as("client-server-usage")) do
                assert_found(report, "fault", "identity_not_for_clients", "serverAuth",
                             "clientAuth")
                assert.equals("rejected", report.client.result)
            end
        end)

        it("recognises nginx's pages (" .. version .. ")", function()
            local protocols = "TLSv" .. version
            for _, report in places:look_at(nginx.upstream({ protocols = protocols }),
                                            { path = "/echo" }) do
                assert_found(report, "fault", "client_certificate_required", "set ssl_cert")
                assert.equals("client_certificate_required", report.code)
                assert.equals("response", report.stage)
                assert.equals("not_given", report.client.result)
                assert.equals(400, report.request.status)
            end
            for _, report in places:look_at(nginx.upstream({ protocols = protocols }),
                                            as("client-other-ca")) do
                assert_found(report, "fault", "client_certificate_rejected", "error.log",
                             "ssl_verify_depth")
                assert_found(report, "fault", "identity_chain_incomplete")
                assert.equals("rejected", report.client.result)
                assert.equals(400, report.request.status)
            end
        end)
    end

    it("takes nginx's status codes of its own for the same", function()
        for status, code in pairs({ [495] = "client_certificate_rejected",
                                    [496] = "client_certificate_required" }) do
            for _, report in places:look_at(nginx.upstream({
                verify = "off", server = "location /refused { return " .. status .. "; }",
            }), { path = "/refused" }) do
                assert_found(report, "fault", code)
            end
        end
    end)

    it("takes no other answer for a rejection", function()
        for status, phrase in pairs({ [400] = "answered 400", [403] = "application" }) do
            for _, report in places:look_at(nginx.upstream({
                server = "location /refused { return " .. status .. "; }",
            }), as("client-a", { path = "/refused" })) do
                assert_found(report, "warning", "request_refused", phrase)
                assert.is_true(report.ok)
                assert.equals("accepted", report.client.result)
            end
        end
    end)
end)


describe("diagnose of a server that asks for no client certificate", function()
    it("names the settings that make servers ask", function()
        for _, version in ipairs({ "TLSv1.2", "TLSv1.3" }) do
            for _, report in places:look_at(nginx.upstream({ protocols = version, verify = "off" }),
                                            as("client-a")) do
                assert_found(report, "fault", "client_certificate_not_requested",
                             "asked for no client certificate during the handshake",
                             "ssl_verify_client on", "SSLVerifyClient", "requestCert: true")
                assert.equals("not_requested", report.client.result)
                assert.is_nil(report.client.offered)
            end
        end
    end)

    for _, version in ipairs({ "1.2", "1.3" }) do
        it("knows httpd, which asks after the handshake (TLS " .. version .. ")", function()
            for _, report in places:look_at(httpd.start({
                version = version, verify = "none",
                config = "<Location /echo>\nSSLVerifyClient require\n</Location>",
            }), as("client-a")) do
                assert_found(report, "fault", "client_certificate_not_requested",
                             "for the whole virtual host")
                assert.is_false(report.client.requested)
                assert.equals("not_requested", report.client.result)
            end
        end)
    end

    it("says so too if a caller without one is refused", function()
        for _, report in places:look_at(nginx.upstream({
            verify = "off", server = "location /refused { return 403; }",
        }), { path = "/refused" }) do
            assert_found(report, "note", "client_certificate_not_requested", "SSLVerifyClient")
        end
    end)
end)


describe("diagnose of the client's own certificate", function()
    it("finds faults whatever the server thinks of them", function()
        for identity, expected in pairs({
            ["client-expired"] = { "fault", "identity_expired", "valid until 2020-02-01" },
            ["diagnose-early"] = { "fault", "identity_not_yet_valid", "valid from 2048-01-01" },
            ["client-server-usage"] = { "fault", "identity_not_for_clients", "clientAuth" },
            ["diagnose-ends-soon"] = { "warning", "identity_expires_soon", "in 3 days" },
        }) do
            for _, report in places:look_at(nginx.upstream({ verify = "optional_no_ca" }),
                                            as(identity)) do
                assert_found(report, expected[1], expected[2], expected[3])
                assert.equals(1, #report.identity.faults)
                assert.matches(expected[3], report.identity.faults[1], 1, true)
            end
        end
    end)

    it("does not warn too early", function()
        for _, report in places:look_at(nginx.upstream(), as("diagnose-ends-later")) do
            assert_clean(report)
        end
    end)

    it("only notes a chain that the server accepts all the same", function()
        for _, report in places:look_at(nginx.upstream({ verify = "optional_no_ca" }),
                                        as("client-other-ca")) do
            assert_clean(report)
            assert_found(report, "note", "identity_chain_incomplete", "Other CA")
            assert.equals("accepted", report.client.result)
        end
    end)

    it("passes on what had to be put right", function()
        for _, report in places:look_at(nginx.upstream(), as("client-a", {
            ssl_cert_path = false,
            ssl_cert = certs.read("client-b.crt") .. certs.read("client-a.crt"),
        })) do
            assert_found(report, "warning", "identity_chain_untidy", "ssl_cert")
            assert.is_true(report.ok)
            assert.equals("accepted", report.client.result)
            assert.equals(1, #report.identity.chain)
        end
    end)

    it("finds one that cannot be used, and connects to nobody", function()
        local server = peer.start({ script = {} })
        local missing = fs.temp_dir("missing") .. "/nothing.pem"
        for code, identity in pairs({
            key_mismatch = { ssl_cert_path = certs.path("client-a.crt"),
                             ssl_key_path = certs.path("client-b.key") },
            key_encrypted = { ssl_cert_path = certs.path("client-a.crt"),
                              ssl_key_path = certs.path("client-a.encrypted.key") },
            key_passphrase_wrong = { ssl_cert_path = certs.path("client-a.crt"),
                                     ssl_key_path = certs.path("client-a.encrypted.key"),
                                     ssl_key_password = "a wrong one" },
            bad_certificate_pem = { ssl_cert_path = missing,
                                    ssl_key_path = certs.path("client-a.key") },
            bad_key_pem = { ssl_cert_path = certs.path("client-a.crt"), ssl_key_path = missing },
        }) do
            for _, report in ipairs(places:reports(server, identity)) do
                assert_found(report, "fault", code)
                assert.equals("identity", diagnosis.finding(report, code).about)
                assert.equals(code, report.code)
                assert.equals("options", report.stage)
                assert.same({ report.error }, report.identity.faults)
            end
        end
        assert.equals(0, server:connections())
        server:stop()
    end)

    it("does not blame it for CAs that cannot be read", function()
        for _, report in places:look_at(nginx.upstream(), as("client-a", {
            ssl_trusted_certificate = fs.temp_dir("missing") .. "/nothing.pem",
        })) do
            assert_found(report, "fault", "bad_certificate_pem", "ssl_trusted_certificate")
            assert.not_equals("identity", diagnosis.finding(report, report.code).about)
            assert.same({}, report.identity.faults)
        end
    end)
end)
