-- Apache httpd can demand client certificates for a part of its paths. It learns the path after the
-- handshake, and asks then: on TLS 1.2 in a renegotiation, on TLS 1.3 in an authentication after
-- the handshake. We do neither, nor would it help to have given a certificate in the handshake. The
-- caller has to be told at once, and must not get anything that looks like the page.
local http = require("resty.mtls.http")
local httpd = require("spec.support.httpd")
local secure = require("spec.support.secure")

local SECRET = ("secret "):rep(20000)
-- More than httpd keeps of a body while it asks (SSLRenegBufferSize), and than sockets do.
local LARGE = ("x"):rep(10 * 1024 * 1024)

local PROTECTED = [[
    <Location /secret>
        SSLVerifyClient require
    </Location>
]]


describe("a certificate that is asked for after the handshake", function()
    local server

    setup(function()
        local sites = {}
        for _, version in ipairs({ "1.2", "1.3" }) do
            for _, verify in ipairs({ "none", "optional" }) do
                sites[version .. verify] = { version = version, verify = verify,
                                             config = PROTECTED }
            end
        end
        server = httpd.start({ sites = sites, pages = { secret = SECRET, open = "open" } })
    end)

    teardown(function() server:stop() end)

    -- Callers without and with a certificate, to servers that ask for one in the handshake or not.
    local function callers(version)
        return ipairs({
            { port = server.ports[version .. "none"] },
            { port = server.ports[version .. "none"], identity = "client-a" },
            { port = server.ports[version .. "optional"] },
            { port = server.ports[version .. "optional"], identity = "client-a" },
        })
    end

    local function options_of(caller, request)
        local options = { request = request }
        return caller.identity and secure.as(caller.identity, options) or options
    end

    -- httpd answers our "no renegotiation" with alert 40, and the connection is over.
    local function assert_alert(err, details)
        assert.matches("^handshake failed", err)
        assert.same({ "response", 40 }, { details.stage, details.alert }, err)
        -- What that alert means in a handshake.
        assert.is_not.equals("tls_no_common_cipher", details.code)
        assert.equals("string", type(details.hint))
    end

    -- With its length as announced, a page that is not the secret one.
    local function assert_forbidden(outcome)
        assert.equals(403, outcome.status, outcome.err)
        assert.equals(tonumber(outcome.headers["Content-Length"]), #outcome.body)
        assert.matches("Cannot perform Post-Handshake Authentication", outcome.body, 1, true)
    end

    it("fails the request with the server's alert on TLS 1.2", function()
        for _, caller in callers("1.2") do
            for _, method in ipairs({ "GET", "POST" }) do
                local outcome = secure.call(caller, options_of(caller, {
                    path = "/secret", method = method, body = method == "POST" and "x" or nil,
                }))
                assert.equals("request", outcome.at, outcome.err)
                assert_alert(outcome.err, outcome.details)
            end
        end
    end)

    it("is answered with 403 on TLS 1.3", function()
        for _, caller in callers("1.3") do
            for _, method in ipairs({ "GET", "POST" }) do
                assert_forbidden(secure.call(caller, options_of(caller, {
                    path = "/secret", method = method, body = method == "POST" and "x" or nil,
                })))
            end
        end
    end)

    -- It will not ask before it has the body, and cannot keep that much.
    it("is not asked for if the request's body is large", function()
        for _, version in ipairs({ "1.2", "1.3" }) do
            for _, caller in callers(version) do
                local outcome = secure.call(caller, options_of(caller, {
                    path = "/secret", method = "POST", body = LARGE,
                }))
                assert.equals(413, outcome.status, outcome.err)
                assert.equals(tonumber(outcome.headers["Content-Length"]), #outcome.body)
            end
        end
    end)

    -- A kept connection is the same one before and after; what follows must not suffer from it.
    it("leaves the pool without a broken connection", function()
        for _, version in ipairs({ "1.2", "1.3" }) do
            local base = "https://localhost:" .. server.ports[version .. "none"]
            local options = secure.options({ port = server.ports[version .. "none"] })
            local httpc = http.new()
            httpc:set_timeout(options.timeout)
            for _ = 1, 3 do
                local open, open_err = httpc:request_uri(base .. "/open", options)
                assert.equals("open", (open or {}).body, open_err)
                local res, err, details = httpc:request_uri(base .. "/secret", options)
                if version == "1.2" then
                    assert.is_nil(res)
                    assert_alert(err, details)
                else
                    assert_forbidden(assert(res, err))
                end
            end
        end
    end)

    it("does not keep other paths from being served", function()
        for _, version in ipairs({ "1.2", "1.3" }) do
            for _, caller in callers(version) do
                local outcome = secure.call(caller, options_of(caller, { path = "/open" }))
                assert.equals("open", outcome.body, outcome.err)
            end
        end
    end)
end)
