-- Servers with something wrong about their certificate, on each kind of server, TLS 1.2 and 1.3.
-- All of them would demand a client certificate: the server's fault comes first.
local certs = require("spec.support.certs")
local crl = require("spec.support.certs.crl")
local secure = require("spec.support.secure")
local sites = require("spec.support.sites")


-- `hint`: what has to stand in it, plain. `site`: what differs from a server without faults.
local FAULTS = {
    { name = "has expired", site = { cert = "server-expired" },
      code = "server_certificate_expired", hint = { "CN=server-expired", "2020-02-01" } },
    { name = "is not valid yet", site = { cert = "server-not-yet-valid" },
      code = "server_certificate_not_yet_valid",
      hint = { "CN=server-not-yet-valid", "2048-01-01" } },
    { name = "is for another name", site = { cert = "server-wrong-name" },
      code = "server_name_mismatch", hint = { "elsewhere.example", "*.elsewhere.example" } },
    { name = "has no subjectAltName", site = { cert = "server-no-san" },
      code = "server_name_mismatch",
      hint = { "no subjectAltName", "the common name is not used" } },
    { name = "is of an unknown root", site = { cert = "server-unknown-ca" },
      code = "server_certificate_untrusted",
      hint = { "CN=Other CA", "ssl_trusted_certificate" } },
    { name = "comes without its intermediate CA",
      site = { cert = "server-chained", leaf_only = true },
      code = "server_certificate_untrusted",
      hint = { "CN=Test Intermediate CA", "intermediate", "ssl_trusted_certificate" } },
    { name = "is self-signed", site = { cert = "server-self-signed" },
      code = "server_certificate_untrusted", hint = { "self-signed", "ssl_trusted_certificate" } },
    { name = "is revoked", site = { cert = "server-revoked" }, crl = true,
      code = "server_certificate_revoked", hint = { "CN=server-revoked" } },
    { name = "has an issuer without a CRL", site = { cert = "server-chained" }, crl = true,
      code = "server_revocation_unknown", hint = { "CN=Test Intermediate CA", "ssl_crl" } },
}


local function site_name(site, version)
    local name = (site.leaf_only and "leaf_" or "") .. site.cert .. "_" .. version
    return (name:gsub("[^%w]", "_"))
end


local function all_sites()
    local list = {}
    for _, version in ipairs({ "1.2", "1.3" }) do
        for _, fault in ipairs(FAULTS) do
            list[site_name(fault.site, version)] = {
                version = version, cert = fault.site.cert, leaf_only = fault.site.leaf_only,
            }
        end
    end
    return list
end


for _, kind in ipairs(sites.KINDS) do
    describe(kind, function()
        local servers, revoked

        setup(function()
            servers = sites.start(kind, all_sites())
            revoked = crl.path("ca", { revoked = { "server-revoked" } })
        end)

        teardown(function() servers:stop() end)

        local function call(fault, version, more)
            local options = secure.as("client-a", more)
            options.ssl_crl = fault.crl and revoked
            return secure.call({ port = servers.ports[site_name(fault.site, version)] }, options)
        end

        for _, version in ipairs({ "1.2", "1.3" }) do
            for _, fault in ipairs(FAULTS) do
                local what = fault.name .. " gives " .. fault.code .. ", TLS " .. version

                it("whose certificate " .. what, function()
                    local outcome = call(fault, version)
                    assert.same({ "connect", fault.code, "tls" },
                                { outcome.at, (outcome.details or {}).code,
                                  (outcome.details or {}).stage }, outcome.err)
                    assert.matches("handshake failed", outcome.err)
                    -- We are who ended it.
                    assert.is_nil(outcome.details.alert)
                    for _, phrase in ipairs(fault.hint) do
                        assert.matches(phrase, outcome.details.hint, 1, true)
                    end
                end)
            end

            -- What the hints advise.
            it("that is self-signed is trusted when told to, TLS " .. version, function()
                local outcome = call({ site = { cert = "server-self-signed" } }, version, {
                    ssl_trusted_certificate = certs.path("server-self-signed.crt"),
                })
                assert.equals(200, outcome.status, outcome.err)
            end)

            it("without its intermediate CA is served by one of ours, TLS " .. version, function()
                local fault = { site = { cert = "server-chained", leaf_only = true } }
                local outcome = call(fault, version, {
                    ssl_trusted_certificate = { certs.path("ca.crt"),
                                                certs.path("intermediate.crt") },
                })
                assert.equals(200, outcome.status, outcome.err)
            end)
        end
    end)
end
