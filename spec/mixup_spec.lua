--- No request is answered with what was meant for another one, or for none.
local native = require("resty.mtls.native")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local HEAD = peer.receive_until("\r\n\r\n")

-- Plaintext of one full TLS record (RFC 8446, 5.1).
local RECORD = 16384


local function answer(body)
    return "HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
end


-- A response that is exactly as long as a TLS record.
local function full_record()
    local length = RECORD - #"HTTP/1.1 200 OK\r\nContent-Length: 16384\r\n\r\n"
    local response = answer(("x"):rep(length))
    assert.equals(RECORD, #response)
    return response, length
end


after_each(scripted.finish)


describe("a response is for its request alone", function()
    it("when the server sends another one that stays within TLS", function()
        local first, length = full_record()
        local server = scripted.serve({ tls = {}, scripts = {
            { HEAD, peer.send(first .. answer("evil")), peer.pause(), peer.hang() },
            { HEAD, peer.send(answer("own")), peer.hang() },
        } })
        server.is_tls = true
        local httpc = scripted.connect(server)
        assert.equals(length, #assert(assert(httpc:request({})):read_body()))
        -- All of it has been sent. Whether the second record has been read by now is open, and so
        -- is what set_keepalive knows of it.
        server:wait_for_event("1 waits")
        httpc:set_keepalive()
        local other = scripted.connect(server)
        assert.equals(0, other:get_reused_times())
        assert.equals("own", assert(other:request({})):read_body())
    end)

    it("when another is due already", function()
        local httpc = scripted.connected({ HEAD, peer.send(answer("first")), peer.hang() })
        assert(httpc:send_request({ path = "/first" }))
        local res, err, details = httpc:request({ path = "/second" })
        assert.is_nil(res)
        assert.matches("earlier request", err)
        assert.equals("bad_argument", details.code)
        assert.equals("first", assert(httpc:read_response({})):read_body())
    end)

    it("when the server sends one that nobody asked for", function()
        local httpc, server = scripted.connected({
            HEAD, peer.send(answer("first") .. answer("evil")), peer.receive_to_end(),
        })
        assert.equals("first", assert(httpc:request({})):read_body())
        local res, err = httpc:request({ path = "/second" })
        assert.is_nil(res)
        assert.equals("closed", err)
        assert.not_matches("/second", server:received(1))
    end)

    it("and is gone, not empty, once the connection was given back", function()
        local httpc = scripted.connected({ HEAD, peer.send(answer("whole")), peer.hang() })
        local res = assert(httpc:request({}))
        assert.equals(1, httpc:set_keepalive())
        local body, err = res:read_body()
        assert.is_nil(body)
        assert.equals("closed", err)
        local part, reader_err = res.body_reader(10)
        assert.is_nil(part)
        assert.equals("closed", reader_err)
    end)

    it("and only the light thread that began an operation is told how it ended", function()
        local client = native.client()
        local ok, err, details = client:outcome(7)
        assert.is_nil(ok)
        assert.equals("closed", err)
        assert.matches("another light thread", details.hint)
    end)
end)


describe("a connection that leads elsewhere", function()
    it("after CONNECT is not kept", function()
        local httpc = scripted.connected({ HEAD, peer.send("HTTP/1.1 200 OK\r\n\r\n"),
                                           peer.hang() })
        assert.equals(200, assert(httpc:request({ method = "CONNECT", path = "a:1" })).status)
        assert.equals(2, (httpc:set_keepalive()))
    end)
end)
