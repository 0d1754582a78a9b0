local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local fetch, pack = scripted.fetch, scripted.pack

local HEAD = peer.receive_until("\r\n\r\n")
local OK = "HTTP/1.1 200 OK\r\n"
local CHUNKED = OK .. "Transfer-Encoding: chunked\r\n\r\n"


after_each(scripted.finish)


describe("a truncated body is an error, never a short success,", function()
    local TRUNCATED = {
        ["of a length"] = OK .. "Content-Length: 10\r\n\r\nhello",
        ["of a length and no byte"] = OK .. "Content-Length: 10\r\n\r\n",
        ["in a chunk"] = CHUNKED .. "a\r\nhello",
        ["between chunks"] = CHUNKED .. "5\r\nhello\r\n",
        ["in a chunk size"] = CHUNKED .. "5\r\nhello\r\n0",
        ["before the end of the trailers"] = CHUNKED .. "5\r\nhello\r\n0\r\nX: y\r\n",
    }
    local ENDINGS = {
        { name = "close", ending = peer.close() }, { name = "reset", ending = peer.reset() },
        { name = "close_notify", ending = peer.close(), tls = {} },
        { name = "the end of TCP under TLS", ending = peer.cut(), tls = {} },
    }

    local function assert_truncated(bytes, case)
        local httpc = scripted.answered(bytes, case.ending, case.tls)
        local values = pack(fetch(httpc))
        assert.is_nil(values[1], bytes)
        assert.same({ 3, "closed", "closed", "body" },
                    { values.n, values[2], values[3].code, values[3].stage })
        assert.not_equals(1, (httpc:set_keepalive()))
    end

    for name, bytes in pairs(TRUNCATED) do
        it(name, function()
            for _, case in ipairs(ENDINGS) do
                assert_truncated(bytes, case)
            end
        end)
    end

    it("that only the end of the connection ends, without close_notify", function()
        assert_truncated(OK .. "\r\nhello", ENDINGS[4])
        assert_truncated("HTTP/1.0 200 OK\r\n\r\nhello", ENDINGS[4])
        assert_truncated(OK .. "\r\nhello", ENDINGS[2])
        local httpc = scripted.answered(OK .. "\r\nhello", peer.close(), {})
        assert.same({ 200, "hello" }, { fetch(httpc) })
    end)

    it("in request_uri too", function()
        local server = scripted.serve({ tls = {}, script = { HEAD, peer.send(OK .. "\r\nhello"),
                                                             peer.cut() } })
        local res, err, details = http.new():request_uri(
            "https://localhost:" .. server.port .. "/",
            { ssl_trusted_certificate = certs.path("ca.crt") })
        assert.same({ nil, "closed", "body" }, { res, err, details.stage })
    end)
end)
