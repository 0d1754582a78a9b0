-- Certificates that nobody else has issued: as servers, and as those who vouch for servers.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local forged = require("spec.support.certs.forged")
local openssl_server = require("spec.support.openssl_server")
local secure = require("spec.support.secure")

local LOOPBACK = "DNS:localhost"
local NAMES = "subjectAltName=" .. LOOPBACK .. "\n"
local CA = "basicConstraints=critical,CA:TRUE\n"
local NOT_CA = "basicConstraints=critical,CA:FALSE\n"
local PAST, LESS_PAST = "20200101000000Z", "20200201000000Z"

-- Kinds of self-signed certificates that servers have.
local KINDS = {
    ["self-leaf"] = NOT_CA .. "extendedKeyUsage=serverAuth\n" .. NAMES,
    ["self-ca"] = CA .. NAMES,
    ["self-ca-with-usage"] = CA .. "keyUsage=critical,digitalSignature,keyCertSign\n" .. NAMES,
    ["self-bare"] = NAMES,
    -- CA:TRUE, and a key that is not for signing certificates (RFC 5280, 4.2.1.3).
    ["self-ca-without-usage"] = CA .. "keyUsage=critical,digitalSignature\n" .. NAMES,
}

-- Those of them that are no CAs.
local NO_CAS = { "self-leaf", "self-bare", "self-ca-without-usage" }

for name, extensions in pairs(KINDS) do
    certs.add({
        [name] = { extensions = extensions },
        [name .. "-expired"] = { extensions = extensions, from = PAST, to = LESS_PAST },
        [name .. "-early"] = { extensions = extensions, from = "20480101000000Z" },
        [name .. "-elsewhere"] = { extensions = extensions:gsub("localhost", "elsewhere.example") },
        -- Same names, same extensions, another key.
        [name .. "-twin"] = { extensions = extensions, common_name = name },
        ["by-" .. name] = { usage = "server", issuer = name, names = LOOPBACK },
        ["ca-by-" .. name] = { usage = "ca", issuer = name },
        ["by-ca-by-" .. name] = { usage = "server", issuer = "ca-by-" .. name, names = LOOPBACK },
    })
end

certs.add({
    ["v1-root"] = { extensions = "" },
    ["v1-other-root"] = { extensions = "", common_name = "v1-root" },
    ["v1-middle"] = { extensions = "", issuer = "ca" },
    ["middle-of-v1"] = { usage = "ca", issuer = "v1-root" },
    ["of-v1"] = { usage = "server", issuer = "v1-root", names = LOOPBACK },
    ["of-middle-of-v1"] = { usage = "server", issuer = "middle-of-v1", names = LOOPBACK },
    ["of-v1-middle"] = { usage = "server", issuer = "v1-middle", names = LOOPBACK },
})


local function code(identity, trusted, version)
    return (secure.code(secure.server(identity, version), { ssl_trusted_certificate = trusted }))
end


-- How a server does that sends these certificates.
local function code_of_chain(identity, chain, trusted)
    local texts = {}
    for i, name in ipairs(chain) do
        texts[i] = certs.read(name .. ".leaf.crt")
    end
    local path = fs.temp_dir("chain") .. "/chain.pem"
    fs.write(path, table.concat(texts))
    local server = openssl_server.start({ cert = identity, leaf_only = true,
                                          args = { "-cert_chain", path } })
    local result = secure.code(server, { ssl_trusted_certificate = trusted })
    server:stop()
    return result
end


teardown(secure.finish)


for kind in pairs(KINDS) do
    describe("the self-signed certificate of a server (" .. kind .. ")", function()
        local listed

        setup(function() listed = certs.path(kind .. ".crt") end)

        for _, version in ipairs({ "1.2", "1.3" }) do
            it("is accepted if it is in ssl_trusted_certificate, on TLS " .. version, function()
                assert.equals(200, code(kind, listed, version))
                assert.equals(200, code(kind, certs.read(kind .. ".crt"), version))
                assert.equals(200, code(kind, { certs.path("ca.crt"), listed }, version))
                assert.equals(200, code(kind, certs.read("ca.crt") .. certs.read(kind .. ".crt"),
                                        version))
            end)

            it("does not do without its key, on TLS " .. version, function()
                local server = openssl_server.start({
                    cert = kind, version = version,
                    args = { "-key", forged.key(kind, kind .. "-twin") },
                })
                local result = secure.code(server, { ssl_trusted_certificate = listed })
                server:stop()
                assert.equals("server_certificate_invalid", result)
            end)
        end

        it("is refused if it is not in ssl_trusted_certificate", function()
            assert.equals("server_certificate_untrusted", code(kind, certs.path("ca.crt")))
            local other = certs.path(kind .. "-twin.crt")
            assert.equals("server_certificate_untrusted", code(kind, other))
        end)

        it("needs the right name nevertheless", function()
            local identity = kind .. "-elsewhere"
            local server = secure.server(identity)
            local options = { ssl_trusted_certificate = certs.path(identity .. ".crt") }
            assert.equals("server_name_mismatch", secure.code(server, options))
            options.ssl_server_name = "elsewhere.example"
            assert.equals(200, secure.code(server, options))
        end)

        it("has to be in time nevertheless", function()
            assert.equals("server_certificate_expired",
                          code(kind .. "-expired", certs.path(kind .. "-expired.crt")))
            assert.equals("server_certificate_not_yet_valid",
                          code(kind .. "-early", certs.path(kind .. "-early.crt")))
        end)
    end)
end


describe("a self-signed certificate that is no CA", function()
    for _, kind in ipairs(NO_CAS) do
        it("vouches for no certificate that was issued with its key (" .. kind .. ")", function()
            local listed = certs.path(kind .. ".crt")
            local leaf = "by-" .. kind
            assert.equals("server_certificate_untrusted", code(leaf, listed))
            assert.equals("server_certificate_untrusted",
                          code_of_chain(leaf, { leaf, kind }, listed))
            assert.equals("server_certificate_untrusted",
                          code_of_chain(leaf, { leaf }, { listed, certs.path("ca.crt") }))
        end)

        it("vouches for no CA either (" .. kind .. ")", function()
            local listed = certs.path(kind .. ".crt")
            local leaf, ca = "by-ca-by-" .. kind, "ca-by-" .. kind
            for _, chain in ipairs({ { leaf, ca }, { leaf, ca, kind }, { leaf, kind, ca } }) do
                assert.equals("server_certificate_untrusted", code_of_chain(leaf, chain, listed))
            end
        end)

        it("does not open the door for others that come with it (" .. kind .. ")", function()
            local chain = { "server-unknown-ca", kind }
            assert.equals("server_certificate_untrusted",
                          code_of_chain("server-unknown-ca", chain, certs.path(kind .. ".crt")))
        end)

        it("is said not to be marked as one, where it is taken for one (" .. kind .. ")", function()
            local server = secure.server("by-" .. kind)
            for listed, phrase in pairs({
                [kind] = "is not marked as a CA's (basicConstraints CA:TRUE",
                -- Has nothing to do with it.
                ["ca"] = "which is not in ssl_trusted_certificate",
            }) do
                local hint = secure.call(server, {
                    ssl_trusted_certificate = { certs.path(listed .. ".crt") },
                }).details.hint
                assert.matches("issued by O=Example, CN=" .. kind, hint, 1, true)
                assert.matches(phrase, hint, 1, true)
            end
        end)
    end

    it("is not confused with a CA of that name", function()
        local outcome = secure.call(secure.server("by-self-ca"), {
            ssl_trusted_certificate = certs.path("self-ca-twin.crt"),
        })
        assert.matches("not the one that signed it", outcome.details.hint, 1, true)
        assert.not_matches("marked as a CA", outcome.details.hint, 1, true)
    end)

    -- Shows that it is for want of CA:TRUE that the ones above are refused.
    it("is not to be confused with one that is", function()
        local listed = certs.path("self-ca.crt")
        assert.equals(200, code("by-self-ca", listed))
        local chain = { "by-ca-by-self-ca", "ca-by-self-ca" }
        assert.equals(200, code_of_chain(chain[1], chain, listed))
        assert.equals("server_certificate_untrusted",
                      code("by-self-ca", certs.path("self-ca-twin.crt")))
    end)
end)


describe("a root of X.509 version 1", function()
    it("vouches for servers and intermediate CAs", function()
        local root = certs.path("v1-root.crt")
        assert.equals(200, code("of-v1", root))
        assert.equals(200, code("of-v1", { root, certs.path("ca.crt") }))
        assert.equals(200, code_of_chain("of-middle-of-v1", { "of-middle-of-v1", "middle-of-v1" },
                                         root))
    end)

    it("has to be in ssl_trusted_certificate", function()
        assert.equals("server_certificate_untrusted", code("of-v1", certs.path("ca.crt")))
        assert.equals("server_certificate_untrusted",
                      code_of_chain("of-v1", { "of-v1", "v1-root" }, certs.path("ca.crt")))
    end)

    it("is known by its key, not by its name", function()
        assert.equals("server_certificate_untrusted",
                      code("of-v1", certs.path("v1-other-root.crt")))
    end)

    it("is a root, and no intermediate CA", function()
        assert.not_equals(200, code_of_chain("of-v1-middle", { "of-v1-middle", "v1-middle" },
                                             certs.path("ca.crt")))
    end)
end)
