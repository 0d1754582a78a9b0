--- Expect: 100-continue: the body waits for the server's word, and not for ever.
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local fetch, pack = scripted.fetch, scripted.pack

local HEAD, BODY = peer.receive_until("\r\n\r\n"), peer.receive_until("END")
local GOOD = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


after_each(scripted.finish)


local function once(text)
    local given = false
    return function()
        if not given then
            given = true
            return text
        end
    end
end


-- The same body in every form that it can have.
local forms = {
    { name = "a string", params = function()
        return { method = "POST", body = "the END", headers = { Expect = "100-continue" } }
    end },
    { name = "a table", params = function()
        return { method = "POST", body = { "the ", "END" }, headers = { expect = "100-Continue" } }
    end },
    { name = "an iterator", params = function()
        return { method = "POST", body = once("the END"),
                 headers = { Expect = "100-continue", ["Content-Length"] = 7 } }
    end },
    { name = "an iterator of chunks", params = function()
        return { method = "POST", body = once("7\r\nthe END\r\n0\r\n\r\n"),
                 headers = { Expect = "100-continue", ["Transfer-Encoding"] = "chunked" } }
    end },
}


for _, form in ipairs(forms) do
    describe("the body of " .. form.name .. " that waits for a 100", function()
        local function connected(...)
            return scripted.connected({ HEAD, ... })
        end

        it("is sent when it comes, with and without headers", function()
            for _, interim in ipairs({
                "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\nX-Note: a\r\n\r\n",
                "HTTP/1.1 100 \r\n\r\n",
                "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
            }) do
                local httpc, server = connected(peer.pause(), peer.send(interim), BODY,
                                                peer.send(GOOD), peer.receive_to_end())
                local params = form.params()
                assert.is_true(httpc:send_request(params))
                server:wait_for_event("1 waits")
                -- Nothing but the head has been sent.
                assert.matches("\r\n\r\n$", server:received(1))
                server:resume()
                local res = assert(httpc:read_response(params))
                assert.same({ 200, "good" }, { res.status, res:read_body() })
                assert.is_nil(res.headers["X-Note"])
                assert.matches("\r\n\r\n.*the END", server:received(1))
                assert.equals(1, httpc:set_keepalive())
            end
        end)

        it("is sent by request, once", function()
            local httpc, server = connected(peer.send("HTTP/1.1 100 Continue\r\n\r\n"), BODY,
                                            peer.send(GOOD), peer.receive_to_end())
            assert.same({ 200, "good" }, { fetch(httpc, form.params()) })
            assert.equals(1, select(2, server:received(1):gsub("the END", "")))
            assert.matches("expect: 100-continue\r\n", server:received(1):lower(), 1, true)
        end)

        it("is not sent when the server declines, and the connection is not kept", function()
            for _, status in ipairs({ 417, 401, 413, 200 }) do
                local httpc, server = connected(
                    peer.send("HTTP/1.1 " .. status .. " No\r\nContent-Length: 2\r\n\r\nno"),
                    peer.receive_to_end())
                assert.same({ status, "no" }, { fetch(httpc, form.params()) })
                assert.same({ 2, "connection must be closed" }, { httpc:set_keepalive() })
                server:wait_for_event("1 read: closed")
                assert.matches("\r\n\r\n$", server:received(1))
                assert.not_matches("the END", server:received(1), 1, true)
            end
        end)

        it("is sent to a server that never says 100", function()
            local httpc = connected(BODY, peer.send(GOOD), peer.receive_to_end())
            assert.same({ 200, "good" }, { fetch(httpc, form.params()) })
            assert.equals(1, httpc:set_keepalive())
        end)

        it("is not sent to a server that closes", function()
            local httpc, server = connected(peer.close())
            local values = pack(httpc:request(form.params()))
            assert.same({ 3, "closed", "closed" }, { values.n, values[2], values[3].code })
            assert.not_matches("the END", server:received(1), 1, true)
        end)
    end)
end


describe("Expect: 100-continue", function()
    it("is understood by a real server", function()
        local upstream = nginx.upstream()
        for _, form in ipairs(forms) do
            local httpc = scripted.connect(upstream.ports.plain)
            local params = form.params()
            params.path = "/body"
            assert.same({ 200, "the END" }, { fetch(httpc, params) })
            assert.equals(1, httpc:set_keepalive())
        end
        upstream:stop()
    end)

    it("is waited for no longer than the read timeout, and then the body is sent", function()
        local httpc = scripted.connected({ HEAD, BODY, peer.send(GOOD), peer.receive_to_end() })
        httpc:set_timeouts(10000, 10000, 300)
        assert.same({ 200, "good" }, { fetch(httpc, forms[1].params()) })
        httpc = scripted.connected({ HEAD, BODY, peer.send(GOOD), peer.receive_to_end() })
        httpc:set_timeouts(10000, 10000, 300)
        assert.same({ 200, "good" }, { fetch(httpc, forms[3].params()) })
    end)

    it("without a body does not wait", function()
        local httpc = scripted.connected({ HEAD, peer.send(GOOD), peer.receive_to_end() })
        assert.same({ 200, "good" }, { fetch(httpc, { headers = { Expect = "100-continue" } }) })
        assert.equals(1, httpc:set_keepalive())
    end)

    it("may come after all, when the body has been sent", function()
        local httpc = scripted.connected({ HEAD, BODY,
            peer.send("HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" .. GOOD), peer.receive_to_end() })
        assert.same({ 200, "good" }, { fetch(httpc, forms[1].params()) })
        assert.equals(1, httpc:set_keepalive())
    end)

    it("works in request_uri", function()
        local server = scripted.serve({ script = {
            HEAD, peer.send("HTTP/1.1 100 Continue\r\n\r\n"), BODY, peer.send(GOOD),
            peer.receive_to_end(),
        } })
        local res = assert(http.new():request_uri("http://localhost:" .. server.port .. "/",
                                                  forms[1].params()))
        assert.same({ 200, "good" }, { res.status, res.body })
    end)
end)
