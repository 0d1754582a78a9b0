-- The server is judged before it gets to see the client's certificate: `openssl s_server -msg`
-- tells of every message that it got.
local crl = require("spec.support.certs.crl")
local openssl_server = require("spec.support.openssl_server")
local pin_of = require("spec.support.certs.pins").of
local process = require("spec.support.process")
local secure = require("spec.support.secure")
local squid = require("spec.support.squid")

-- Length of a client's Certificate message with no certificate in it.
local EMPTY = { ["1.2"] = 7, ["1.3"] = 8 }

-- Why a server is refused: its identity, further options of the caller, and the code.
local REFUSALS = {
    { "server-unknown-ca", {}, "server_certificate_untrusted" },
    { "server-self-signed", {}, "server_certificate_untrusted" },
    { "server-expired", {}, "server_certificate_expired" },
    { "server-not-yet-valid", {}, "server_certificate_not_yet_valid" },
    { "server-wrong-name", {}, "server_name_mismatch" },
    { "server-client-usage", {}, "server_certificate_invalid" },
    { "server", { pinned = "server-rsa" }, "server_key_not_pinned" },
    { "server", { pinned = "server-rsa", ssl_verify = false }, "server_key_not_pinned" },
    { "server-revoked", { crl = "ca" }, "server_certificate_revoked" },
    { "server", { crl = "other-ca" }, "server_revocation_unknown" },
}

-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()


-- A server that asks for a client certificate; it does without one unless it insists.
local function start(identity, version, insists)
    return openssl_server.start({ cert = identity, version = version, client_ca = "ca",
                                  optional = not insists, args = { "-msg" } })
end


-- The lengths of the Certificate messages that it has got. What it got after them is there already:
-- it tells in turn.
local function certificates_after(server, message)
    local output
    process.wait_until("s_server got " .. message, function()
        output = server.process:output()
        return output:find("<<< TLS [%d.]+, " .. message)
    end)
    local lengths = {}
    for length in output:gmatch("<<< TLS [%d.]+, Handshake %[length (%x+)%], Certificate\n") do
        lengths[#lengths + 1] = tonumber(length, 16)
    end
    return lengths
end


local function options_of(given)
    local options = secure.as("client-a")
    options.ssl_pinned_pubkey = given.pinned and pin_of(given.pinned)
    options.ssl_crl = given.crl and crl.path(given.crl, { revoked = { "server-revoked" } })
    if given.ssl_verify == false then
        options.ssl_verify = false
    end
    options.proxy_opts = given.proxy_opts
    return options
end


for version, empty in pairs(EMPTY) do
    describe("a client certificate, on TLS " .. version .. ",", function()
        it("is sent to a server that is trusted", function()
            local server = start("server", version)
            assert.equals(200, secure.code(server, options_of({})))
            local lengths = certificates_after(server, "Handshake %[length %x+%], Finished")
            server:stop()
            assert.equals(1, #lengths)
            assert.is_true(lengths[1] > 100 + empty, lengths[1])
        end)

        -- Shows what the tests below would see if there was a message.
        it("that was not given is an empty message", function()
            local server = start("server", version)
            assert.equals(200, secure.code(server))
            local lengths = certificates_after(server, "Handshake %[length %x+%], Finished")
            server:stop()
            assert.same({ empty }, lengths)
        end)

        for _, refusal in ipairs(REFUSALS) do
            local identity, given, code = unpack(refusal)
            it("is never sent if the outcome is " .. code .. " (" .. identity
                .. (given.ssl_verify == false and ", without verification" or "") .. ")", function()
                local server = start(identity, version)
                assert.equals(code, secure.code(server, options_of(given)))
                local lengths = certificates_after(server, "Alert")
                server:stop()
                assert.same({}, lengths)
            end)
        end
    end)
end


describe("behind an https proxy, a client certificate", function()
    local proxy, proxy_opts

    setup(function()
        proxy = squid.start()
        proxy_opts = { https_proxy = proxy:uri("tls") }
    end)

    teardown(function() proxy:stop() end)

    for version, empty in pairs(EMPTY) do
        it("is sent to a server that is trusted, on TLS " .. version, function()
            local server = start("server", version)
            assert.equals(200, secure.code(server, options_of({ proxy_opts = proxy_opts })))
            local lengths = certificates_after(server, "Handshake %[length %x+%], Finished")
            server:stop()
            assert.equals(1, #lengths)
            assert.is_true(lengths[1] > 100 + empty, lengths[1])
        end)

        it("is never sent to one that is not, on TLS " .. version, function()
            local server = start("server-unknown-ca", version)
            assert.equals("server_certificate_untrusted",
                          secure.code(server, options_of({ proxy_opts = proxy_opts })))
            local lengths = certificates_after(server, "Alert")
            server:stop()
            assert.same({}, lengths)
        end)
    end
end)


-- s_server in the proxy's place: it insists on a certificate, so that it ends the handshake.
describe("an https proxy that asks for a client certificate", function()
    for version, empty in pairs(EMPTY) do
        local function visit(identity, message)
            local server = start(identity, version, true)
            local outcome = secure.call({ port = 1 }, options_of({
                proxy_opts = { https_proxy = "https://localhost:" .. server.port },
            }))
            assert.equals("connect", outcome.at)
            local lengths = certificates_after(server, message)
            server:stop()
            return lengths, outcome.details.code
        end

        it("gets none, on TLS " .. version, function()
            local message = "Handshake %[length %x+%], Certificate\n"
            assert.same({ empty }, (visit("server", message)))
        end)

        it("is refused before if it is not trusted, on TLS " .. version, function()
            local lengths, code = visit("server-unknown-ca", "Alert")
            assert.same({}, lengths)
            assert.equals("server_certificate_untrusted", code)
        end)
    end
end)
