-- Names in certificates are whatever their makers wrote. In a log or on a terminal, a line feed
-- makes a line of its own, and an escape sequence does what it says.
local call = require("spec.support.call")
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local process = require("spec.support.process")
local secure = require("spec.support.secure")

-- LF, ESC, CR, TAB, DEL, and CSI of C1, which openssl takes for Latin 1.
local EVIL = "evil\n2026 [alert] 1#1: forged\27[31m\r\t\127\155end"
local SHOWN = "CN=evil?2026 [alert] 1#1: forged?[31m"

certs.add({
    ["hostile-ca"] = { usage = "ca", common_name = EVIL },
    ["of-hostile-ca"] = { usage = "server", issuer = "hostile-ca", names = "DNS:localhost" },
    ["client-of-hostile-ca"] = { usage = "client", issuer = "hostile-ca" },
    ["hostile-self-signed"] = { usage = "server", names = "DNS:localhost", common_name = EVIL },
    ["hostile-expired"] = { usage = "server", issuer = "ca", names = "DNS:localhost",
                            common_name = EVIL, from = "20200101000000Z", to = "20200201000000Z" },
    ["hostile-names"] = { usage = "server", issuer = "ca", common_name = EVIL,
                          names = "DNS:evil\\nforged\27[31m.example" },
})

-- Servers by identity, with the code of a call and what the error shows.
local CASES = {
    ["of-hostile-ca"] = { "server_certificate_untrusted", SHOWN },
    ["hostile-self-signed"] = { "server_certificate_untrusted", SHOWN },
    ["hostile-expired"] = { "server_certificate_expired", SHOWN },
    ["hostile-names"] = { "server_name_mismatch", "evil?forged?[31m.example" },
}


local function assert_printable(text)
    assert.is_nil(text:find("%c"), text)
    -- C1 in UTF-8.
    assert.is_nil(text:find("\194[\128-\159]"), text)
end


-- Every string in a table.
local function assert_all_printable(value)
    if type(value) == "table" then
        for _, item in pairs(value) do
            assert_all_printable(item)
        end
    elseif type(value) == "string" then
        assert_printable(value)
    end
end


local function assert_shown(outcome, code, shown)
    assert.equals(code, outcome.details.code, outcome.err)
    local text = outcome.err .. " " .. outcome.details.hint
    assert_printable(text)
    assert.matches(shown, text, 1, true)
end


teardown(secure.finish)


describe("control characters in the names of a server's certificate", function()
    for identity, case in pairs(CASES) do
        it("are in no error (" .. identity .. ")", function()
            assert_shown(secure.call(secure.server(identity)), unpack(case))
        end)

        it("are in no report (" .. identity .. ")", function()
            local options = secure.options(secure.server(identity))
            options.request = nil
            local report = http.diagnose(options)
            assert.equals(case[1], report.code)
            assert.matches(case[2], cjson.encode(report), 1, true)
            assert_all_printable(report)
        end)

        it("are not on the terminal (" .. identity .. ")", function()
            local arguments = { "--ca", certs.path("ca.crt"),
                                "localhost:" .. secure.server(identity).port }
            local result = process.run({ fs.repo .. "/bin/resty-mtls-check", unpack(arguments) })
            assert.equals("", result.stderr)
            assert.matches(case[2], result.stdout, 1, true)
            for line in result.stdout:gmatch("[^\n]+") do
                assert_printable(line)
                assert.not_matches("^2026", line)
            end
        end)
    end

    it("are not in get_ssl_info", function()
        for _, identity in ipairs({ "of-hostile-ca", "hostile-self-signed" }) do
            local trusted = identity == "of-hostile-ca" and "hostile-ca.crt" or identity .. ".crt"
            local outcome = secure.call(secure.server(identity), {
                ssl_trusted_certificate = certs.path(trusted),
            })
            assert.equals(200, outcome.status, outcome.err)
            assert.matches(SHOWN, outcome.ssl.server.issuer, 1, true)
            assert_all_printable(outcome.ssl)
        end
    end)

    it("are not in nginx's log, when the error is logged", function()
        local gateway = nginx.gateway()
        for identity, case in pairs(CASES) do
            gateway:run([[
                local secure = require("spec.support.secure")
                local outcome = secure.call({ port = ${port} }, {
                    ssl_trusted_certificate = ${pem.ca.crt},
                })
                ngx.log(ngx.ERR, outcome.err, ": ", outcome.details.hint)
            ]], { vars = { port = secure.server(identity).port } })
            -- In one line, where there would be three.
            assert.matches(case[2], gateway:error_log(), 1, true)
        end
        gateway:stop()
    end)
end)


describe("control characters in the names of the CAs that a server accepts", function()
    local server

    setup(function() server = openssl_server.start({ client_ca = "hostile-ca" }) end)

    teardown(function() server:stop() end)

    it("are in no error", function()
        assert_shown(call.make(secure.options(server, secure.as("client-a"))),
                     "client_certificate_unknown_ca", SHOWN)
    end)

    it("are in no report", function()
        local options = secure.options(server, secure.as("client-a", { path = "/" }))
        options.request = nil
        local report = http.diagnose(options)
        assert.is_false(report.ok)
        assert.matches(SHOWN, cjson.encode(report), 1, true)
        assert_all_printable(report)
    end)
end)


describe("control characters in the names of the client's own certificate", function()
    it("are in no error and no report", function()
        local server = openssl_server.start({ client_ca = "ca" })
        local options = secure.options(server, secure.as("client-of-hostile-ca"))
        assert_shown(call.make(options), "client_certificate_unknown_ca", SHOWN)
        options.request, options.path = nil, "/"
        local report = http.diagnose(options)
        server:stop()
        assert.matches(SHOWN, cjson.encode(report), 1, true)
        assert_all_printable(report)
    end)
end)
