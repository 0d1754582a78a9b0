--- Request bodies: what is on the wire is what the head says, or an error and a closed connection.
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local fetch, pack = scripted.fetch, scripted.pack

local HEAD = peer.receive_until("\r\n\r\n")
local EMPTY = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
local REFUSAL = "HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo much"


after_each(scripted.finish)


-- An iterator over these values. Counts its calls in `calls`.
local function iterate(...)
    local values, state = pack(...), { calls = 0 }
    return function()
        state.calls = state.calls + 1
        return values[state.calls]
    end, state
end


-- What a server gets that waits for `last` before it answers.
local function wire_of(params, last)
    local httpc, server = scripted.connected({ peer.receive_until(last), peer.send(EMPTY),
                                               peer.receive_to_end() })
    assert.same({ 200, "" }, { fetch(httpc, params) })
    assert.equals(1, httpc:set_keepalive())
    return server:received(1)
end


-- `params` bring no response, but an error that has `expected`. What the server got of the body
-- stands behind the head, and nothing can follow it.
local function assert_unsent(params, expected, received)
    local httpc, server = scripted.connected({ peer.receive_to_end() })
    local values = pack(httpc:request(params))
    assert.is_nil(values[1])
    assert.matches(expected, values[2], 1, true)
    assert.is_nil((httpc:request({ path = "/again" })))
    assert.not_equals(1, (httpc:set_keepalive()))
    server:wait_for_event("1 read: closed")
    assert.equals(received, server:received(1):match("\r\n\r\n(.*)$"))
    return values
end


describe("an iterator body", function()
    it("of the announced length is sent as it is yielded", function()
        for _, name in ipairs({ "Content-Length", "content-length", "CONTENT-LENGTH" }) do
            local wire = wire_of({ method = "POST", headers = { [name] = 9 },
                                   body = iterate("hel", "lo ", "", "END") }, "END")
            assert.matches("\r\n" .. name .. ": 9\r\n", wire, 1, true)
            assert.matches("\r\n\r\nhello END$", wire)
            assert.not_matches("transfer-encoding", wire:lower(), 1, true)
        end
    end)

    it("may be announced in digits, and be empty", function()
        assert.matches("\r\n\r\nend$", wire_of({ method = "PUT", body = iterate("end"),
                                                 headers = { ["Content-Length"] = "3" } }, "end"))
        assert.matches("\r\n\r\n$", wire_of({ method = "PUT", body = iterate(),
                                              headers = { ["Content-Length"] = 0 } }, "\r\n\r\n"))
    end)

    it("with ready-made chunk framing is sent as it is", function()
        local body = "3\r\nabc\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        local wire = wire_of({ method = "POST", headers = { ["Transfer-Encoding"] = "chunked" },
                               body = iterate(body:sub(1, 4), body:sub(5, 20), body:sub(21)) },
                             "X-Sum: 1\r\n\r\n")
        assert.matches("\r\n\r\n" .. body, wire, 1, true)
        assert.not_matches("content-length", wire:lower(), 1, true)
    end)

    it("with chunk framing is understood by a real server", function()
        local upstream = nginx.upstream()
        local httpc = scripted.connect(upstream.ports.plain)
        local status, body = fetch(httpc, {
            method = "POST", path = "/body", headers = { ["Transfer-Encoding"] = "chunked" },
            body = iterate("3\r\nabc\r\n", "400\r\n" .. ("x"):rep(1024) .. "\r\n", "0\r\n\r\n"),
        })
        assert.same({ 200, "abc" .. ("x"):rep(1024) }, { status, body })
        assert.equals(1, httpc:set_keepalive())
        upstream:stop()
    end)

    it("beats Content-Length with chunk framing, so that there is one framing", function()
        local wire = wire_of({ method = "POST", body = iterate("0\r\n\r\n"),
            headers = { ["Transfer-Encoding"] = "chunked", ["Content-Length"] = 5 } }, "0\r\n\r\n")
        assert.not_matches("content-length", wire:lower(), 1, true)
    end)

    it("without any framing is refused before a byte is sent", function()
        local httpc, server = scripted.connected({ HEAD, peer.send(EMPTY), peer.receive_to_end() })
        local body, state = iterate("abc")
        local values = pack(httpc:request({ method = "POST", body = body }))
        assert.equals(3, values.n)
        assert.matches("^Request body is a function but a length or chunked encoding", values[2])
        assert.equals("bad_argument", values[3].code)
        assert.equals(0, state.calls)
        assert.same({ 200, "" }, { fetch(httpc, { path = "/good" }) })
        assert.matches("^GET /good ", server:received(1))
    end)

    it("that is longer than announced does not send what is over", function()
        local values = assert_unsent({ method = "POST", headers = { ["Content-Length"] = 5 },
                                       body = iterate("abc", "defGET /evil HTTP/1.1") },
                                     "longer than its Content-Length", "abc")
        assert.same({ "bad_argument", "send" }, { values[3].code, values[3].stage })
    end)

    it("that is shorter than announced is an error", function()
        local values = assert_unsent({ method = "POST", headers = { ["Content-Length"] = 5 },
                                       body = iterate("abc") },
                                     "2 bytes short of its Content-Length", "abc")
        assert.same({ "bad_argument", "send" }, { values[3].code, values[3].stage })
    end)

    it("that gives an error ends the request with it", function()
        local given = { "abc", nil }
        local calls = 0
        assert_unsent({ method = "POST", headers = { ["Content-Length"] = 5 }, body = function()
            calls = calls + 1
            return given[calls], calls == 2 and "the disk is gone" or nil
        end }, "the disk is gone", "abc")
        assert.equals(2, calls)
    end)

    it("that yields no strings is an error", function()
        for _, value in ipairs({ true, print, coroutine.create(print), { {}, print } }) do
            assert_unsent({ method = "POST", headers = { ["Content-Length"] = 5 },
                            body = iterate("abc", value) }, "has to return strings", "abc")
        end
    end)

    it("that raises an error leaves no connection to go on with", function()
        local httpc, server = scripted.connected({ peer.receive_to_end() })
        httpc:set_timeouts(10000, 10000, 200)
        local ok, res, err = pcall(httpc.request, httpc, {
            method = "POST", headers = { ["Content-Length"] = 5 },
            body = function() error("a bug of the caller", 0) end,
        })
        assert.matches("a bug of the caller", ok and err or res, 1, true)
        assert.is_nil((httpc:request({ path = "/again" })))
        assert.not_equals(1, (httpc:set_keepalive()))
        server:wait_for_event("1 read: closed")
        assert.not_matches("/again", server:received(1), 1, true)
    end)

    it("takes as long as it likes", function()
        local httpc, server = scripted.connected({ HEAD, peer.pause(), peer.receive_until("end"),
                                                   peer.send(EMPTY), peer.receive_to_end() })
        local calls = 0
        assert.same({ 200, "" }, { fetch(httpc, {
            method = "POST", headers = { ["Content-Length"] = 3 }, body = function()
                calls = calls + 1
                if calls == 1 then
                    server:wait_for_event("1 waits")
                    server:resume()
                    return "end"
                end
            end,
        }) })
    end)
end)


describe("the length of a body", function()
    -- A server takes what is over for the next request.
    it("that the caller states is the length of the body, or the request is refused", function()
        local httpc, server = scripted.connected({ HEAD, peer.send(EMPTY), peer.receive_to_end() })
        for _, case in ipairs({
            { 2, "abc" }, { 4, "abc" }, { "+3", "abc" }, { "0x3", "abc" }, { "3 ", "abc" },
            { "", "abc" }, { 3.5, "abc" }, { -3, "abc" }, { 3, nil }, { 2, { "a", "bc" } },
            { { "3", "3" }, "abc" }, { { "3", "4" }, "abc" }, { { "4" }, "abc" },
            { "3, 3", "abc" },
        }) do
            local values = pack(httpc:request({ method = "POST", body = case[2],
                                                headers = { ["Content-Length"] = case[1] } }))
            assert.is_nil(values[1], tostring(case[1]))
            assert.same({ 3, "bad_argument" }, { values.n, values[3].code })
        end
        assert.same({ 200, "" }, { fetch(httpc, { path = "/good" }) })
        assert.matches("^GET /good ", server:received(1))
    end)

    it("is not stated by a header that only looks like it", function()
        local wire = wire_of({ method = "POST", body = "the END",
                               headers = { content_length = 3, transfer_encoding = "chunked" } },
                             "END")
        assert.matches("\r\nContent-Length: 7\r\n", wire, 1, true)
        local httpc, server = scripted.connected({ peer.receive_to_end() })
        local res, err = httpc:request({ method = "POST", body = iterate("END"),
            headers = { content_length = 3, transfer_encoding = "chunked" } })
        assert.is_nil(res)
        assert.matches("^Request body is a function but a length", err)
        httpc:close()
        server:wait_for_event("1 read: closed")
        assert.equals("", server:received(1))
    end)

    it("is kept to by an iterator whatever the caller states it with", function()
        for _, headers in ipairs({
            { ["Content-Length"] = 3, ["content-length"] = 6, ["CONTENT-LENGTH"] = 9 },
            { ["CONTENT-LENGTH"] = 3, ["content-length"] = 6, ["Content-Length"] = 9 },
            { ["Content-Length"] = { 3 } }, { ["Content-Length"] = { 3, 9 } },
            { ["Content-Length"] = 3, ["Transfer-Encoding"] = "gzip" },
        }) do
            local httpc, server = scripted.connected({ HEAD, peer.receive_to_end() })
            -- Nobody answers where the last one of the lengths is taken.
            httpc:set_timeouts(10000, 10000, 200)
            httpc:request({ method = "POST", headers = headers,
                            body = iterate("abc", "def", "ghi") })
            httpc:close()
            server:wait_for_event("1 read: closed")
            local wire = server:received(1)
            local stated, count = 0, 0
            for digits in wire:lower():gmatch("\r\ncontent%-length: (%d+)") do
                stated, count = tonumber(digits), count + 1
            end
            assert.is_true(count <= 1)
            assert.is_true(#(wire:match("\r\n\r\n(.*)$") or "") <= stated)
        end
    end)

    it("is 0 for POST, PUT and PATCH without a body", function()
        for _, method in ipairs({ "POST", "PUT", "PATCH", "post" }) do
            local wire = wire_of({ method = method }, "\r\n\r\n")
            assert.matches("\r\nContent-Length: 0\r\n", wire, 1, true)
        end
        for _, method in ipairs({ "GET", "DELETE", "OPTIONS" }) do
            assert.not_matches("content%-length", wire_of({ method = method }, "\r\n\r\n"):lower())
        end
        assert.matches("\r\nContent-Length: 0\r\n", wire_of({ method = "GET", body = "" },
                                                            "\r\n\r\n"), 1, true)
    end)
end)


describe("a server that answers while it is still being sent to", function()
    local BIG = ("x"):rep(1024 * 1024)
    local COUNT = 32

    -- Far more than sockets hold, of which the server reads the head alone.
    local function upload(params, ending)
        local httpc = scripted.connected({ HEAD, peer.send(REFUSAL), ending })
        httpc:set_timeouts(10000, 5000, 5000)
        params.method = "POST"
        local status, body = fetch(httpc, params)
        assert.same({ 413, "too much" }, { status, body })
        assert.not_equals(1, (httpc:set_keepalive()))
    end

    it("is heard while a large string is sent", function()
        upload({ body = BIG:rep(COUNT) }, peer.hang())
    end)

    it("is heard while an iterator is sent, which is asked no more", function()
        local calls = 0
        upload({ headers = { ["Content-Length"] = COUNT * #BIG }, body = function()
            calls = calls + 1
            return calls <= COUNT and BIG or nil
        end }, peer.hang())
        assert.is_true(calls < COUNT)
    end)

    it("is heard though it ends its side at once", function()
        upload({ body = BIG:rep(COUNT) }, peer.shutdown_send())
    end)

    it("and then goes on with the connection is not taken for one that is ready", function()
        local httpc = scripted.connected({ HEAD, peer.send((REFUSAL:gsub("Connection: close\r\n",
                                                                         ""))), peer.hang() })
        assert.equals(413, (fetch(httpc, { method = "POST", body = BIG:rep(COUNT) })))
        assert.same({ 2, "connection must be closed" }, { httpc:set_keepalive() })
    end)

    it("in request_uri is a response as well", function()
        local server = scripted.serve({ script = { HEAD, peer.send(REFUSAL), peer.hang() } })
        local res = assert(http.new():request_uri("http://localhost:" .. server.port .. "/",
                                                  { method = "PUT", body = BIG:rep(COUNT) }))
        assert.same({ 413, "too much" }, { res.status, res.body })
    end)
end)
