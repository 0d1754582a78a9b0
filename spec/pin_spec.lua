local certs = require("spec.support.certs")
local forged = require("spec.support.certs.forged")
local native = require("resty.mtls.native")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local peer = require("spec.support.peer")
local pin_of = require("spec.support.certs.pins").of
local secure = require("spec.support.secure")
local seen_in = require("spec.support.nginx.upstream").parse
local squid = require("spec.support.squid")

local RIGHT, WRONG, OTHER

-- This process has given its one warning with this, so that it stands in nobody's way below.
native.warn_unverified()


setup(function()
    RIGHT, WRONG, OTHER = pin_of("server"), pin_of("server-rsa"), pin_of("client-a")
end)

teardown(secure.finish)


local function code(pins, more)
    more = more or {}
    more.ssl_pinned_pubkey = pins
    return (secure.code(secure.server("server"), more))
end


local function assert_not_pinned(outcome)
    assert.equals("connect", outcome.at)
    assert.equals("server_key_not_pinned", outcome.details.code, outcome.err)
    assert.equals("tls", outcome.details.stage)
    assert.matches("^handshake failed", outcome.err)
end


describe("ssl_pinned_pubkey", function()
    for _, verify in ipairs({ true, false }) do
        local with = verify and "with verification" or "without verification"

        it("lets the server in that has a key with that pin, " .. with, function()
            assert.equals(200, code(RIGHT, { ssl_verify = verify }))
            assert.equals(200, code(WRONG .. ";" .. RIGHT, { ssl_verify = verify }))
            assert.equals(200, code(RIGHT .. ";" .. WRONG .. ";" .. OTHER,
                                    { ssl_verify = verify }))
        end)

        it("keeps every other one out, " .. with, function()
            for _, version in ipairs({ "1.2", "1.3" }) do
                for _, pins in ipairs({ WRONG, WRONG .. ";" .. OTHER }) do
                    assert_not_pinned(secure.call(secure.server("server", version), {
                        ssl_verify = verify, ssl_pinned_pubkey = pins,
                    }))
                end
            end
        end)

        it("keeps one out that has the certificate and not its key, " .. with, function()
            for _, version in ipairs({ "1.2", "1.3" }) do
                local server = openssl_server.start({
                    version = version, args = { "-key", forged.key("server", "client-a") },
                })
                local result = secure.code(server, { ssl_verify = verify,
                                                     ssl_pinned_pubkey = RIGHT })
                server:stop()
                assert.equals("server_certificate_invalid", result)
            end
        end)

        it("keeps the client certificate from another server, " .. with, function()
            local server = peer.start({ tls = { client_ca = "ca" }, script = {} })
            assert_not_pinned(secure.call(server, secure.as("client-a", {
                ssl_verify = verify, ssl_pinned_pubkey = WRONG,
            })))
            server:wait_for_event("1 handshake failed: [^\n]*alert")
            server:stop()
        end)
    end

    it("is for the key of the server, not of its CAs", function()
        local server = secure.server("server-chained")
        for _, ca in ipairs({ "ca", "intermediate" }) do
            assert_not_pinned(secure.call(server, { ssl_pinned_pubkey = pin_of(ca) }))
        end
        assert.equals(200, secure.code(server, { ssl_pinned_pubkey = pin_of("server-chained") }))
    end)

    it("does not take the place of any other check", function()
        for identity, expected in pairs({
            ["server-unknown-ca"] = "server_certificate_untrusted",
            ["server-expired"] = "server_certificate_expired",
            ["server-wrong-name"] = "server_name_mismatch",
            ["server-self-signed"] = "server_certificate_untrusted",
        }) do
            local options = { ssl_pinned_pubkey = pin_of(identity) }
            assert.equals(expected, secure.code(secure.server(identity), options))
            options.ssl_verify = false
            assert.equals(200, secure.code(secure.server(identity), options))
        end
    end)

    it("is for the server, not for a proxy in front of it", function()
        local proxy = squid.start()
        local server = secure.server("server-rsa")
        local function through_proxy(pins)
            return secure.code(server, {
                ssl_pinned_pubkey = pins, proxy_opts = { https_proxy = proxy:uri("tls") },
            })
        end
        assert.equals(200, through_proxy(pin_of("server-rsa")))
        assert.equals("server_key_not_pinned", (through_proxy(pin_of("server"))))
        proxy:stop()
    end)

    it("is refused if it is anything else", function()
        local hash = RIGHT:sub(#"sha256//" + 1)
        for _, pins in ipairs({
            "", " ", ";", hash, "sha256/" .. hash, "sha256:" .. hash, "sha256//", "sha1//" .. hash,
            "SHA256//" .. hash, "sha256//" .. hash:sub(1, -5), "sha256//AAAA" .. hash,
            "sha256//" .. ("!"):rep(#hash), RIGHT .. "," .. WRONG, RIGHT .. ";" .. hash,
            certs.path("server.key"), certs.read("server.crt"), 42, true, { RIGHT },
        }) do
            local outcome = secure.call(secure.server("server"), { ssl_pinned_pubkey = pins })
            assert.equals("connect", outcome.at)
            assert.equals("bad_argument", outcome.details.code, outcome.err)
            assert.matches("'ssl_pinned_pubkey'", outcome.err, 1, true)
        end
    end)
end)


describe("a session or a connection of before", function()
    for _, version in ipairs({ "TLSv1.2", "TLSv1.3" }) do
        local server

        setup(function() server = nginx.upstream({ verify = "off", protocols = version }) end)

        teardown(function() server:stop() end)

        for _, verify in ipairs({ true, false }) do
            it("is for its own pins only (" .. version .. ", ssl_verify = " .. tostring(verify)
                .. ")", function()
                local function visit(pins, keep)
                    return secure.call(server, { ssl_pinned_pubkey = pins, ssl_verify = verify,
                                                 keep = keep })
                end

                local function session_reused(pins)
                    return seen_in(visit(pins).body).session_reused
                end

                assert.equals(".", session_reused(false))
                assert.equals("r", session_reused(false))
                assert.equals(".", session_reused(RIGHT))
                assert.equals("r", session_reused(RIGHT))
                assert.equals(".", session_reused(RIGHT .. ";" .. WRONG))
                assert_not_pinned(visit(WRONG))
                assert.equals("r", session_reused(RIGHT))
                assert_not_pinned(visit(WRONG))

                assert.equals(0, visit(false, true).reused)
                assert.equals(0, visit(RIGHT, true).reused)
                assert.equals(1, visit(RIGHT, true).reused)
                assert_not_pinned(visit(WRONG, true))
            end)
        end
    end
end)
