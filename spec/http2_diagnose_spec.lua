-- http.diagnose over HTTP/2.
local diagnosis = require("spec.support.diagnosis")
local http = require("resty.mtls.http")
local nghttpd = require("spec.support.nghttpd")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")
local secure = require("spec.support.secure")

local as = diagnosis.as
local assert_clean = diagnosis.assert_clean

local places


setup(function() places = diagnosis.places() end)

teardown(function() places:stop() end)


describe("diagnose over HTTP/2", function()
    it("makes a request", function()
        for _, version in ipairs({ 2, "auto" }) do
            for _, report in places:look_at(nginx.upstream({ listen = "http2" }),
                                            as("client-a", { path = "/echo",
                                                             http_version = version })) do
                assert_clean(report)
                assert.equals("h2", report.alpn)
                assert.equals("accepted", report.client.result)
                assert.equals(200, report.request.status)
            end
        end
    end)

    it("makes none without a path, and finds no fault with that", function()
        for _, report in places:look_at(nginx.upstream({ listen = "http2" }),
                                        secure.as("client-a", { http_version = 2 })) do
            assert.is_true(report.ok)
            assert.equals("unknown", report.client.result)
            assert.matches("until a request is made", report.verdict)
        end
    end)

    it("looks anew each time, and leaves no connection", function()
        local server = nginx.upstream({ listen = "http2" })
        local before = http.stats()
        for _ = 1, 3 do
            for _, report in ipairs(places:reports(server, as("client-a", { http_version = 2 }))) do
                assert.equals("O=Example, CN=server", report.server.chain[1].subject)
            end
        end
        assert.equals(3, http.stats().handshakes_full - before.handshakes_full)
        process.wait_until("all connections are closed", function()
            return http.stats().connections_open <= before.connections_open
        end)
        server:stop()
    end)

    it("says that the server does not speak it", function()
        for _, report in places:look_at(nginx.upstream(), as("client-a", { http_version = 2 })) do
            assert.is_false(report.ok)
            assert.equals("http2_unsupported", report.code)
            assert.equals("tls", report.stage)
        end
    end)
end)


describe("diagnose of a server that speaks HTTP/2 only", function()
    local function reports(version)
        local server = nghttpd.start({ tls = true, files = { echo = "hello" } })
        return places:look_at(server, { path = "/echo", http_version = version })
    end

    it("says that this may be why it does not answer", function()
        for _, report in reports(nil) do
            assert.is_false(report.ok)
            local found = false
            for _, finding in ipairs(report.findings) do
                found = found or finding.code == "protocol_not_chosen"
                    and finding.hint:find("http_version to 2", 1, true)
            end
            assert.is_truthy(found)
        end
    end)

    it("finds no fault with HTTP/2", function()
        for _, report in reports(2) do
            assert.is_true(report.ok)
            assert.equals(200, report.request.status)
        end
    end)
end)
