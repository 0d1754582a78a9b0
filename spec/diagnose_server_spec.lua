-- What http.diagnose finds about servers' certificates.
local certs = require("spec.support.certs")
local diagnosis = require("spec.support.diagnosis")
local fs = require("spec.support.fs")
local openssl_server = require("spec.support.openssl_server")

local as = diagnosis.as
local assert_clean, assert_found = diagnosis.assert_clean, diagnosis.assert_found

certs.add({
    ["diagnose-server-ends-soon"] = { usage = "server", issuer = "ca", names = "DNS:localhost",
                                      to = diagnosis.in_days(3) },
})

-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()

local places


setup(function() places = diagnosis.places() end)

teardown(function() places:stop() end)


describe("diagnose of a server's certificates", function()
    for identity, expected in pairs({
        ["server-unknown-ca"] = { "server_certificate_untrusted", complete = false,
                                  trusted = false, name_matches = true },
        ["server-self-signed"] = { "server_certificate_untrusted", complete = true,
                                   trusted = false, name_matches = true },
        -- With a CA in its configuration, s_server sends that as well.
        ["server-expired"] = { "server_certificate_expired", complete = true,
                               name_matches = true },
        ["server-not-yet-valid"] = { "server_certificate_not_yet_valid", complete = true,
                                     name_matches = true },
        ["server-wrong-name"] = { "server_name_mismatch", complete = true, trusted = true,
                                  name_matches = false },
        ["server-no-san"] = { "server_name_mismatch", complete = true, trusted = true,
                              name_matches = false },
    }) do
        it("finds " .. expected[1] .. " of " .. identity, function()
            local server = openssl_server.start({ cert = identity, client_ca = "ca" })
            for _, report in places:look_at(server, as("client-a")) do
                assert_found(report, "fault", expected[1])
                assert.equals(expected[1], report.code)
                assert.equals("tls", report.stage)
                for _, name in ipairs({ "complete", "trusted", "name_matches" }) do
                    assert.equals(expected[name], report.server[name], name)
                end
                assert.matches(identity == "server-no-san" and "localhost" or identity,
                               report.server.chain[1].subject, 1, true)
                -- It was not sent to a server that is not trusted.
                assert.is_nil(report.client.offered)
                assert.equals("unknown", report.client.result)
            end
        end)
    end

    it("finds a missing intermediate CA", function()
        for _, report in places:look_at(openssl_server.start({ cert = "server-chained",
                                                               leaf_only = true })) do
            assert_found(report, "fault", "server_certificate_untrusted", "intermediate")
            assert.is_false(report.server.complete)
        end
    end)

    it("tells of one that is self-signed and trusted", function()
        for _, report in places:look_at(openssl_server.start({ cert = "server-self-signed" }), {
            ssl_trusted_certificate = certs.path("server-self-signed.crt"),
        }) do
            assert_clean(report)
            assert_found(report, "note", "server_self_signed")
            assert.is_true(report.server.trusted)
        end
    end)

    it("warns of one that expires soon", function()
        local server = openssl_server.start({ cert = "diagnose-server-ends-soon" })
        for _, report in places:look_at(server) do
            assert_found(report, "warning", "server_certificate_expires_soon", "in 3 days")
            assert.is_true(report.ok)
            assert.matches("1 warning", report.verdict)
        end
    end)

    it("warns of what ssl_verify = false lets pass", function()
        for identity, code in pairs({ ["server-expired"] = "server_certificate_expired",
                                      ["server-wrong-name"] = "server_name_mismatch" }) do
            for _, report in places:look_at(openssl_server.start({ cert = identity }),
                                            { ssl_verify = false, path = "/" }) do
                assert_found(report, "warning", "server_not_verified")
                assert_found(report, "warning", code)
                assert.is_true(report.ok)
                assert.is_nil(report.server.trusted)
                assert.is_nil(report.server.complete)
            end
        end
    end)

    it("tells of a chain that is out of order", function()
        local chain = fs.temp_dir("chain") .. "/chain.pem"
        fs.write(chain, certs.read("other-ca.leaf.crt") .. certs.read("intermediate.leaf.crt"))
        for _, report in places:look_at(openssl_server.start({
            cert = "server-chained", leaf_only = true, args = { "-cert_chain", chain },
        })) do
            assert_clean(report)
            assert_found(report, "note", "server_chain_order")
            assert.equals(3, #report.server.chain)
        end
    end)

    it("compares names as TLS does", function()
        for name, matches in pairs({ ["elsewhere.example"] = true, ["A.elsewhere.example"] = true,
                                     ["a.b.elsewhere.example"] = false, localhost = false }) do
            for _, report in places:look_at(openssl_server.start({ cert = "server-wrong-name" }),
                                            { ssl_verify = false, ssl_server_name = name }) do
                assert.equals(matches, report.server.name_matches, name)
            end
        end
    end)
end)
