local certs = require("spec.support.certs")
local crl_of = require("spec.support.certs.crl").path
local join = require("spec.support.certs.crl").join
local fs = require("spec.support.fs")
local native = require("resty.mtls.native")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local secure = require("spec.support.secure")

local PAST = "20200201000000Z"

certs.add({
    -- Has the name of "ca", and not its key.
    ["false-ca"] = { usage = "ca", common_name = "Test CA" },
})

-- This process has given its one warning with this, so that it stands in nobody's way below.
native.warn_unverified()


local function outcome_of(identity, crl, more)
    more = more or {}
    more.ssl_crl = crl
    return secure.call(secure.server(identity), more)
end


-- How a server fares whose chain is "server-chained", "intermediate", "ca".
local function chained(crl)
    local outcome = outcome_of("server-chained", crl)
    return outcome.status or outcome.details.code, outcome
end


local function code(identity, crl, more)
    local outcome = outcome_of(identity, crl, more)
    return outcome.status or outcome.details.code
end


local function assert_bad_crl(crl, pattern)
    local outcome = outcome_of("server", crl)
    assert.equals("connect", outcome.at)
    assert.equals("options", outcome.details.stage)
    assert.equals("bad_crl", outcome.details.code, outcome.err)
    assert.matches("'ssl_crl'", outcome.err, 1, true)
    assert.matches(pattern, outcome.err)
end


teardown(secure.finish)


describe("ssl_crl", function()
    it("lets a server in whom no list names", function()
        local path = crl_of("ca", { revoked = { "server-revoked", "client-revoked" } })
        assert.equals(200, code("server", path))
        assert.equals(200, code("server", crl_of("ca")))
    end)

    it("keeps a revoked server out, on TLS 1.2 and 1.3", function()
        local path = crl_of("ca", { revoked = { "server-revoked" } })
        for _, version in ipairs({ "1.2", "1.3" }) do
            local outcome = secure.call(secure.server("server-revoked", version),
                                        { ssl_crl = path })
            assert.equals("connect", outcome.at)
            assert.equals("server_certificate_revoked", outcome.details.code)
            assert.equals("tls", outcome.details.stage)
            assert.matches("^handshake failed: .*revoked", outcome.err)
            assert.equals("string", type(outcome.details.hint))
        end
        -- It is for the list that it is kept out.
        assert.equals(200, code("server-revoked"))
    end)

    it("takes a file and text", function()
        local revoked = crl_of("ca", { revoked = { "server-revoked" } })
        assert.equals("server_certificate_revoked", code("server-revoked", fs.read(revoked)))
        assert.equals(200, code("server", fs.read(revoked)))
        assert.equals(200, code("server-revoked", fs.read(crl_of("ca"))))
    end)

    it("may be there twice for a CA, in any order: the newer one counts", function()
        local function crls(revoked_then, revoked_now, then_to)
            local old = crl_of("ca", { revoked = { revoked_then }, to = then_to })
            local new = crl_of("ca", { revoked = { revoked_now }, from = "20210101000000Z" })
            return { join(old, new), join(new, old) }
        end
        for _, path in ipairs(crls("server", "server-revoked")) do
            assert.equals("server_certificate_revoked", code("server-revoked", path))
            assert.equals(200, code("server", path))
        end
        -- The older one need not be current.
        for _, path in ipairs(crls("server", "server-revoked", PAST)) do
            assert.equals("server_certificate_revoked", code("server-revoked", path))
            assert.equals(200, code("server", path))
        end
    end)

    it("is looked into for every certificate of the chain", function()
        local good, middle_good = crl_of("ca"), crl_of("intermediate")
        local bad = crl_of("ca", { revoked = { "intermediate" } })
        local middle_bad = crl_of("intermediate", { revoked = { "server-chained" } })
        assert.equals(200, chained(join(good, middle_good)))
        assert.equals(200, chained(join(middle_good, good)))
        assert.equals("server_certificate_revoked", chained(join(good, middle_bad)))
        assert.equals("server_certificate_revoked", chained(join(bad, middle_good)))
        assert.equals("server_certificate_revoked", chained(join(middle_bad, bad)))
    end)

    it("that lacks the list of an issuer is an error, which names it", function()
        for issuer, crl in pairs({
            ["Test Intermediate CA"] = crl_of("ca"),
            ["Test CA"] = crl_of("intermediate"),
        }) do
            local result, outcome = chained(crl)
            assert.equals("server_revocation_unknown", result)
            assert.equals("tls", outcome.details.stage)
            assert.matches("CN=" .. issuer, outcome.details.hint, 1, true)
        end
        assert.equals("server_revocation_unknown", code("server", crl_of("other-ca")))
    end)

    it("that is past its nextUpdate is an error, which names the issuer", function()
        local old = crl_of("ca", { to = PAST })
        local outcome = outcome_of("server", old)
        assert.equals("server_revocation_unknown", outcome.details.code)
        assert.matches("CN=Test CA", outcome.details.hint, 1, true)
        assert.equals("server_revocation_unknown",
                      chained(join(crl_of("intermediate"), old)))
        local result, chained_outcome = chained(join(
            crl_of("ca"), crl_of("intermediate", { to = PAST })))
        assert.equals("server_revocation_unknown", result)
        assert.matches("CN=Test Intermediate CA", chained_outcome.details.hint, 1, true)
    end)

    it("that somebody else has signed in the issuer's name does not count", function()
        for _, revoked in ipairs({ {}, { "server" } }) do
            assert.equals("server_revocation_unknown",
                          code("server", crl_of("false-ca", { revoked = revoked })))
        end
    end)

    it("is no list of whom to trust", function()
        assert.equals("server_certificate_untrusted",
                      code("server-unknown-ca", join(crl_of("ca"), crl_of("other-ca"))))
    end)

    it("that cannot be used is refused before anything is sent", function()
        local good = fs.read(crl_of("ca"))
        assert_bad_crl(certs.read("ca.crt"), "no PEM revocation list")
        assert_bad_crl(certs.path("ca.crt"), "no PEM revocation list")
        assert_bad_crl("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "")
        assert_bad_crl(good:sub(1, 200), "")
        assert_bad_crl(good .. "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "")
        assert_bad_crl("/nowhere/crl.pem", "/nowhere/crl.pem")
        for _, value in ipairs({ 42, "", true, {} }) do
            local outcome = outcome_of("server", value)
            assert.equals("bad_argument", outcome.details.code)
            assert.matches("'ssl_crl'", outcome.err, 1, true)
        end
    end)

    it("of version 1 is refused, and the error says that it is for the version", function()
        local old = crl_of("ca", { version = 1 })
        assert_bad_crl(old, "version")
        assert_bad_crl(fs.read(crl_of("ca")) .. fs.read(old), "version")
    end)

    it("is looked into at every handshake, for no session is resumed", function()
        -- A resumed session brings no certificates that could be looked for.
        for _, version in ipairs({ "1.2", "1.3" }) do
            local server = secure.server("server", version)
            local path = crl_of("ca")
            for _, crl in ipairs({ path, fs.read(path) }) do
                for _ = 1, 3 do
                    local outcome = secure.call(server, { ssl_crl = crl })
                    assert.equals(200, outcome.status, outcome.err)
                    assert.is_false(outcome.ssl.resumed)
                end
            end
            -- It is for the lists that none is: this server resumes.
            secure.call(server)
            assert.is_true(secure.call(server).ssl.resumed)
        end
    end)

    it("is not looked into if the server is not verified", function()
        local path = crl_of("ca", { revoked = { "server-revoked" } })
        assert.equals(200, code("server-revoked", path, { ssl_verify = false }))
    end)

    it("keeps the client certificate from a revoked server", function()
        local server = peer.start({ tls = { cert = "server-revoked", client_ca = "ca" },
                                    script = {} })
        assert.equals("server_certificate_revoked", secure.code(server, secure.as("client-a", {
            ssl_crl = crl_of("ca", { revoked = { "server-revoked" } }),
        })))
        server:wait_for_event("handshake failed: [^\n]*alert certificate revoked")
        server:stop()
    end)
end)


describe("a server that is found to be revoked", function()
    it("is not reached by a connection or a session from before", function()
        local server = nginx.upstream({ cert = "server-revoked", verify = "off" })
        local good = fs.read(crl_of("ca"))
        local bad = fs.read(crl_of("ca", { revoked = { "server-revoked" } }))
        for _, earlier in ipairs({ false, good }) do
            for _, keep in ipairs({ true, false }) do
                local before = { ssl_crl = earlier, keep = keep }
                assert.equals(200, secure.code(server, before))
                assert.equals("server_certificate_revoked",
                              secure.code(server, { ssl_crl = bad, keep = keep }))
            end
        end
        server:stop()
    end)
end)
