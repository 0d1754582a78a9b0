-- What the two sides settle on: version, ALPN, a stapled answer, ciphers and groups.
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local process = require("spec.support.process")
local secure = require("spec.support.secure")

local V12, V13 = "TLSv1.2", "TLSv1.3"

local VERSIONS = { ["1.2"] = V12, ["1.3"] = V13 }


-- Calls a server that is stopped afterwards.
local function call(server_opts, options)
    local server = openssl_server.start(server_opts)
    local outcome = secure.call(server, options)
    server:stop()
    return outcome, server
end


local function assert_failed(outcome, code, alert)
    assert.same({ at = "connect", code = code, stage = "tls", alert = alert },
                { at = outcome.at, code = outcome.details.code, stage = outcome.details.stage,
                  alert = outcome.details.alert }, outcome.err)
    assert.matches("^handshake failed", outcome.err)
    assert.equals("string", type(outcome.details.hint))
end


teardown(secure.finish)


describe("ssl_min_version and ssl_max_version", function()
    -- With what is spoken to a server of TLS 1.2, of TLS 1.3, and of both; false for an error.
    for _, case in ipairs({
        { nil, nil, V12, V13, V13 },
        { V12, nil, V12, V13, V13 },
        { nil, V13, V12, V13, V13 },
        { V12, V13, V12, V13, V13 },
        { V13, nil, false, V13, V13 },
        { V13, V13, false, V13, V13 },
        { nil, V12, V12, false, V12 },
        { V12, V12, V12, false, V12 },
    }) do
        local lowest, highest = case[1], case[2]
        it("bound the version: " .. tostring(lowest) .. " to " .. tostring(highest), function()
            for i, version in ipairs({ "1.2", "1.3", false }) do
                local outcome = secure.call(secure.server("server", version or nil), {
                    ssl_min_version = lowest, ssl_max_version = highest,
                })
                if case[i + 2] then
                    assert.equals(200, outcome.status, outcome.err)
                    assert.equals(case[i + 2], outcome.ssl.version)
                else
                    assert_failed(outcome, "tls_protocol_version", 70)
                end
            end
        end)
    end

    it("are what the server sees", function()
        local server = nginx.upstream({ verify = "off" })
        for _, version in pairs(VERSIONS) do
            local outcome = secure.call(server, { ssl_min_version = version,
                                                  ssl_max_version = version })
            assert.matches("\nprotocol: " .. version .. "\n", outcome.body, 1, true)
        end
        server:stop()
    end)

    it("that are no version are refused", function()
        for _, option in ipairs({ "ssl_min_version", "ssl_max_version" }) do
            for _, value in ipairs({ "TLSv1.1", "TLSv1", "SSLv3", "TLSv1.4", "1.2", "tlsv1.2", "",
                                     "TLSv1.2 ", 1.2, true, { V12 } }) do
                local outcome = secure.call({ port = 1 }, { [option] = value })
                assert.equals("connect", outcome.at)
                assert.equals("bad_argument", outcome.details.code, outcome.err)
                assert.matches("'" .. option .. "'", outcome.err, 1, true)
            end
        end
    end)

    it("that leave no version are refused", function()
        local outcome = secure.call({ port = 1 }, { ssl_min_version = V13, ssl_max_version = V12 })
        assert.equals("bad_argument", outcome.details.code)
        assert.matches("'ssl_min_version'", outcome.err, 1, true)
    end)

    it("of one call do not hold for another's connection", function()
        local server = nginx.upstream({ verify = "off" })
        local function visit(lowest, highest)
            local outcome = secure.call(server, { keep = true, ssl_min_version = lowest,
                                                  ssl_max_version = highest })
            return outcome.reused, outcome.ssl.version
        end
        assert.same({ 0, V12 }, { visit(nil, V12) })
        assert.same({ 0, V13 }, { visit(V13, nil) })
        assert.same({ 1, V12 }, { visit(nil, V12) })
        assert.same({ 1, V13 }, { visit(V13, nil) })
        server:stop()
    end)
end)


describe("ALPN", function()
    for version, name in pairs(VERSIONS) do
        it("offers http/1.1, and get_ssl_info tells what came of it, on " .. name, function()
            -- With -msg, it writes out at once what it has to tell.
            local outcome, server = call({ version = version,
                                           args = { "-alpn", "http/1.1", "-msg" } })
            assert.equals(200, outcome.status, outcome.err)
            assert.equals("http/1.1", outcome.ssl.alpn)
            assert.matches("ALPN protocols advertised by the client: http/1.1\n",
                           server.process:output(), 1, true)
        end)

        it("settles on http/1.1 with a server that prefers another, on " .. name, function()
            local outcome = call({ version = version, args = { "-alpn", "h2,http/1.1" } })
            assert.equals(200, outcome.status, outcome.err)
            assert.equals("http/1.1", outcome.ssl.alpn)
        end)

        it("is not needed, on " .. name, function()
            local outcome = secure.call(secure.server("server", version))
            assert.equals(200, outcome.status, outcome.err)
            assert.is_nil(outcome.ssl.alpn)
        end)

        it("that finds nothing in common is an error, on " .. name, function()
            local outcome = call({ version = version, args = { "-alpn", "h2" } })
            assert_failed(outcome, "tls_alert", 120)
            assert.matches("no_application_protocol", outcome.err, 1, true)
        end)
    end
end)


describe("a status request", function()
    it("is sent, whatever ssl_send_status_req says", function()
        for version in pairs(VERSIONS) do
            for _, value in ipairs({ "nothing", true, false }) do
                local server = openssl_server.start({ version = version,
                                                      args = { "-status_verbose", "-msg" } })
                local options = secure.options(server)
                if value ~= "nothing" then
                    options.ssl_send_status_req = value
                end
                -- This server has no answer to staple, and that is no error.
                local outcome = require("spec.support.call").make(options)
                assert.equals(200, outcome.status, outcome.err)
                process.wait_until("s_server tells of the status request", function()
                    return server.process:output():find("cert_status: callback called", 1, true)
                end)
                server:stop()
            end
        end
    end)
end)


describe("a server with nothing in common", function()
    for name, server_opts in pairs({
        ["cipher suites, on TLS 1.2"] = { version = "1.2", cert = "server-rsa",
                                          args = { "-cipher", "AES128-SHA" } },
        ["cipher suites, on TLS 1.3"] = { version = "1.3", args = {
            "-ciphersuites", "TLS_AES_128_CCM_SHA256",
        } },
        ["key exchange groups, on TLS 1.2"] = { version = "1.2", args = { "-groups", "P-521" } },
        ["key exchange groups, on TLS 1.3"] = { version = "1.3", args = { "-groups", "X448" } },
    }) do
        it("gives tls_no_common_cipher: " .. name, function()
            local outcome = call(server_opts)
            assert_failed(outcome, "tls_no_common_cipher", 40)
            assert.matches("handshake_failure", outcome.err, 1, true)
            assert.matches("cipher suite", outcome.details.hint, 1, true)
        end)
    end

    it("gives that with a client certificate at hand too", function()
        local outcome = call({ version = "1.2", cert = "server-rsa", client_ca = "ca",
                               args = { "-cipher", "AES128-SHA" } }, secure.as("client-a"))
        assert_failed(outcome, "tls_no_common_cipher", 40)
    end)
end)
