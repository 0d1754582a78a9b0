--- What is not exactly one HTTP/1.1 response is refused, and never becomes part of another one.
local http = require("resty.mtls.http")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local fetch, pack = scripted.fetch, scripted.pack

local HEAD = peer.receive_until("\r\n\r\n")
local OK = "HTTP/1.1 200 OK\r\n"
local CHUNKED = OK .. "Transfer-Encoding: chunked\r\n\r\n"
local EVIL = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
local GOOD = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


after_each(scripted.finish)


local function answer_to(bytes, params, ending, tls)
    return pack(fetch(scripted.answered(bytes, ending, tls), params))
end


-- Each of the answers is refused with this code, its connection is closed, and the next request of
-- anybody goes out on a new one.
local function assert_refused(answers, code, params)
    local scripts = {}
    for _, bytes in ipairs(answers) do
        scripts[#scripts + 1] = { HEAD, peer.send(bytes .. EVIL), peer.receive_to_end() }
        scripts[#scripts + 1] = { HEAD, peer.send(GOOD), peer.receive_to_end() }
    end
    local server = scripted.serve({ scripts = scripts })
    for i, bytes in ipairs(answers) do
        local httpc = scripted.connect(server)
        local values = pack(fetch(httpc, params))
        assert.is_nil(values[1], ("%q was taken"):format(bytes))
        assert.equals(3, values.n)
        assert.equals(code, values[3].code, bytes)
        assert.is_string(values[3].hint)
        assert.is_nil((httpc:request({ path = "/again" })))
        assert.not_equals(1, (httpc:set_keepalive()))
        server:wait_for_event("%f[%d]" .. (2 * i - 1) .. " read: ")

        local another = scripted.connect(server)
        assert.equals(0, another:get_reused_times())
        assert.same({ 200, "good" }, { fetch(another) })
        another:close()
    end
end


local function refuses(name, answers, code, params)
    it(name, function()
        assert_refused(answers, code or "http_malformed", params)
    end)
end


describe("a response is refused", function()
    refuses("for lengths that differ", {
        OK .. "Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
        OK .. "Content-Length: 4, 5\r\n\r\n",
        OK .. "content-length: 0\r\nX: y\r\nCONTENT-LENGTH: 4\r\n\r\n",
    })

    refuses("for a length that is repeated", {
        OK .. "Content-Length: 4\r\nContent-Length: 4\r\n\r\n",
        OK .. "Content-Length: 4, 4\r\n\r\n",
    })

    refuses("for a length beside chunks", {
        OK .. "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        OK .. "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
        OK .. "Transfer-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        OK .. "Transfer-Encoding:\r\nContent-Length: 4\r\n\r\nabcd",
    })

    refuses("for encodings that do not end in one chunked", {
        OK .. "Transfer-Encoding: chunked, gzip, chunked\r\n\r\n0\r\n\r\n",
        OK .. "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        OK .. "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    })

    refuses("for a length that is not digits alone", {
        OK .. "Content-Length: +4\r\n\r\n", OK .. "Content-Length: -4\r\n\r\n",
        OK .. "Content-Length: 0x4\r\n\r\n", OK .. "Content-Length: 4.0\r\n\r\n",
        OK .. "Content-Length: 4 4\r\n\r\n", OK .. "Content-Length: 4e0\r\n\r\n",
        OK .. "Content-Length:\r\n\r\n", OK .. "Content-Length: four\r\n\r\n",
        OK .. "Content-Length: 99999999999999999999\r\n\r\n",
    })

    refuses("for a bare CR", {
        OK .. "X: a\rContent-Length: 0\r\n\r\n", OK .. "X: a\r\r\n\r\n",
        OK .. "X\r: a\r\n\r\n", "HTTP/1.1 200 O\rK\r\n\r\n",
    })

    refuses("for a folded header line", {
        OK .. "X: a\r\n b\r\n\r\n", OK .. "X: a\r\n\tContent-Length: 0\r\n\r\n",
        OK .. " X: a\r\n\r\n", OK .. "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    })

    refuses("for NUL and other controls", {
        OK .. "X: a\0b\r\n\r\n", OK .. "X\0: a\r\n\r\n", "HTTP/1.1 200 O\0K\r\n\r\n",
        OK .. "X: \1\r\n\r\n", OK .. "X: \127\r\n\r\n",
    })

    refuses("for a header line without a colon, or without a proper name", {
        OK .. "nothing\r\n\r\n", OK .. ": a\r\n\r\n", OK .. "X : a\r\n\r\n",
        OK .. "X Y: a\r\n\r\n", OK .. "Content-Length : 4\r\n\r\n",
        OK .. "Content-Length\t: 4\r\n\r\n",
    })

    refuses("for a status line that is none", {
        "HTTP/2 200 OK\r\n\r\n", "HTTP/1.2 200 OK\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n", "HTTP/1.1 +20 OK\r\n\r\n", "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n", "\r\n\r\n" .. OK .. "\r\n", "ICY 200 OK\r\n\r\n",
    })

    refuses("for a chunk size that is not hexadecimal digits alone", {
        CHUNKED .. "0x4\r\nabcd\r\n0\r\n\r\n", CHUNKED .. "+4\r\nabcd\r\n0\r\n\r\n",
        CHUNKED .. "-4\r\nabcd\r\n0\r\n\r\n", CHUNKED .. " 4\r\nabcd\r\n0\r\n\r\n",
        CHUNKED .. "4 4\r\nabcd\r\n0\r\n\r\n", CHUNKED .. "\r\nabcd\r\n0\r\n\r\n",
        CHUNKED .. ";x\r\nabcd\r\n0\r\n\r\n", CHUNKED .. "4;a\rb\r\nabcd\r\n0\r\n\r\n",
        CHUNKED .. "4\f\r\nabcd\r\n0\r\n\r\n",
        CHUNKED .. "10000000000000004\r\nabcd\r\n0\r\n\r\n", CHUNKED .. "g\r\n\r\n",
    })

    refuses("for a chunk that is longer than its size says", {
        CHUNKED .. "3\r\nabcd\r\n0\r\n\r\n", CHUNKED .. "4\r\nabcd0\r\n\r\n",
        CHUNKED .. "4\r\nabcd\r0\r\n\r\n",
    })

    refuses("for trailers that are no header lines", {
        CHUNKED .. "0\r\nnothing\r\n\r\n", CHUNKED .. "0\r\nX: a\r\n b\r\n\r\n",
        CHUNKED .. "0\r\nX: a\0\r\n\r\n",
    })

    refuses("for its framing also where it has no body", {
        OK .. "Content-Length: 4\r\nContent-Length: 5\r\n\r\n", OK .. "Content-Length: +4\r\n\r\n",
    }, nil, { method = "HEAD" })

    refuses("for what is wrong with an interim response in front of it", {
        "HTTP/1.1 103 Early Hints\r\nnothing\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nX: a\rb\r\n\r\n",
    })
end)


describe("the limit", function()
    local function many(count)
        return OK .. ("X-Many: 1\r\n"):rep(count - 1) .. "Content-Length: 2\r\n\r\nhi"
    end

    -- A head of exactly that many bytes.
    local function long(bytes)
        local frame = OK .. "X: \r\nContent-Length: 2\r\n\r\n"
        return OK .. "X: " .. ("x"):rep(bytes - #frame) .. "\r\nContent-Length: 2\r\n\r\nhi"
    end

    it("of header lines is 100 unless given, and 1,000 at the most", function()
        assert.equals("hi", answer_to(many(100))[2])
        assert_refused({ many(101) }, "http_too_large")
        assert.equals("hi", answer_to(many(1000), { max_headers = 1000 })[2])
        assert_refused({ many(1001) }, "http_too_large", { max_headers = 5000 })
        assert.equals("hi", answer_to(many(3), { max_headers = 3 })[2])
        assert_refused({ many(3) }, "http_too_large", { max_headers = 2 })
    end)

    it("of the head is 64 KiB unless given", function()
        assert.equals("hi", answer_to(long(65536))[2])
        assert_refused({ long(65537), ("x"):rep(65537) }, "http_too_large")
        assert.equals("hi", answer_to(long(200), { max_header_size = 200 })[2])
        assert_refused({ long(201) }, "http_too_large", { max_header_size = 200 })
        assert.equals("hi", answer_to(long(1000000), { max_header_size = 1000000 })[2])
    end)

    it("of the head holds for trailers", function()
        local trailers = CHUNKED .. "0\r\n" .. ("X: 1\r\n"):rep(50) .. "\r\n"
        assert.same({ 200, "" }, { unpack(answer_to(trailers)) })
        assert_refused({ trailers }, "http_too_large", { max_header_size = 100 })
        assert_refused({ trailers }, "http_too_large", { max_headers = 49 })
        assert_refused({ CHUNKED .. "0\r\nX: " .. ("x"):rep(70000) }, "http_too_large")
    end)

    it("of a body is none unless given, and counts what is announced", function()
        local chunks = CHUNKED .. "6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n"
        local length = OK .. "Content-Length: 11\r\n\r\nabcdefghijk"
        for _, bytes in ipairs({ chunks, length }) do
            assert.equals("abcdefghijk", answer_to(bytes)[2])
            assert.equals("abcdefghijk", answer_to(bytes, { max_body_size = 11 })[2])
        end
        assert_refused({ chunks, length, OK .. "Content-Length: 9007199254740992\r\n\r\n",
                         CHUNKED .. "ffffffffffffffff\r\n" },
                       "http_too_large", { max_body_size = 10 })
        local to_end = answer_to(OK .. "\r\nabcdefghijk", { max_body_size = 10 }, peer.close())
        assert.equals("http_too_large", to_end[3].code)
        assert.equals("abc", answer_to(OK .. "\r\nabc", { max_body_size = 10 }, peer.close())[2])
    end)

    it("of a body holds for the reader, after what came before", function()
        local httpc = scripted.answered(CHUNKED .. "6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n")
        local res = assert(httpc:request({ max_body_size = 10 }))
        assert.equals("abcdef", res.body_reader())
        local values = pack(res.body_reader())
        assert.same({ 3, "http_too_large" }, { values.n, values[3].code })
    end)

    it("holds for request_uri", function()
        local server = scripted.serve({ script = { HEAD, peer.send(GOOD), peer.hang() } })
        local uri = "http://localhost:" .. server.port .. "/"
        local res, _, details = http.new():request_uri(uri, { max_body_size = 3 })
        assert.same({ nil, "http_too_large" }, { res, details.code })
        assert.equals("good", assert(http.new():request_uri(uri, { max_body_size = 4 })).body)
    end)
end)


describe("an interim response", function()
    it("is skipped, with and without headers", function()
        for _, bytes in ipairs({
            "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\nX: y\r\n\r\n",
            "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
            "HTTP/1.1 199 Odd\r\nContent-Length: 4\r\n\r\n",
            ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"):rep(20),
        }) do
            local values = answer_to(bytes .. GOOD)
            assert.same({ 200, "good" }, { values[1], values[2] }, bytes)
        end
    end)

    it("leaves no header in the final response", function()
        local httpc = scripted.answered("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" .. GOOD)
        local res = assert(httpc:request({}))
        assert.is_nil(res.headers["Link"])
    end)

    it("of a switch of protocols is the final one, and ends HTTP on the connection", function()
        local httpc = scripted.answered("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
        local res = assert(httpc:request({}))
        assert.same({ 101, "x", false }, { res.status, res.headers["Upgrade"], res.has_body })
        assert.same({ 2, "connection must be closed" }, { httpc:set_keepalive() })
    end)

    it("that is followed by ever more of them is an error in the end", function()
        local interim = "HTTP/1.1 103 Early Hints\r\n\r\n"
        assert_refused({ interim:rep(1000) }, "http_malformed")
    end)

    it("that is dripped for ever is bounded by the read timeout", function()
        local httpc = scripted.connected({ HEAD,
            peer.drip(("HTTP/1.1 103 Early Hints\r\n\r\n"):rep(100), 0.01), peer.hang() })
        httpc:set_timeouts(10000, 10000, 300)
        local values = pack(httpc:request({}))
        assert.same({ 3, "timeout", "read_timeout" }, { values.n, values[2], values[3].code })
    end)
end)


describe("a response is read", function()
    it("with chunk extensions, and with zeros and spaces around a size", function()
        for _, bytes in ipairs({
            "4;name\r\ngood\r\n0\r\n\r\n", "4;name=value;b=\"c;d\"\r\ngood\r\n0;e\r\n\r\n",
            "4 \t;a\r\ngood\r\n0\r\n\r\n", "0004\r\ngood\r\n0000\r\n\r\n",
            "2\r\ngo\r\n2\r\nod\r\n0\r\nX: y\r\n\r\n",
        }) do
            local httpc = scripted.answered(CHUNKED .. bytes)
            assert.same({ 200, "good" }, { fetch(httpc) }, bytes)
            assert.equals(1, httpc:set_keepalive())
        end
    end)

    it("once where a server says twice that it is chunked", function()
        for _, lines in ipairs({
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\ntransfer-encoding: Chunked\r\n",
        }) do
            local httpc = scripted.answered(OK .. lines .. "\r\n4\r\ngood\r\n0\r\n\r\n")
            assert.same({ 200, "good" }, { fetch(httpc) })
            assert.equals(1, httpc:set_keepalive())
        end
    end)

    it("with LF for line ends", function()
        for _, bytes in ipairs({
            "HTTP/1.1 200 OK\nContent-Length: 4\nX: y\n\ngood",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\nX: y\r\n\ngood",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nX: y\n\n4\ngood\n0\n\n",
            "HTTP/1.1 103 Early Hints\n\nHTTP/1.1 200 OK\nContent-Length: 4\nX: y\n\ngood",
        }) do
            local httpc = scripted.answered(bytes)
            local res = assert(httpc:request({}))
            assert.same({ 200, "y", "good" }, { res.status, res.headers["X"], res:read_body() })
            assert.equals(1, httpc:set_keepalive())
        end
    end)

    it("to the end of the connection in HTTP/1.0 without a length", function()
        local httpc = scripted.answered("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\ngood",
                                        peer.close())
        assert.same({ 200, "good" }, { fetch(httpc, { version = 1.0 }) })
        assert.equals(2, (httpc:set_keepalive()))
    end)

    it("however its bytes are cut", function()
        local bytes = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" .. CHUNKED
            .. "a;x=y\r\n0123456789\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n"
        local script = { HEAD, peer.drip(bytes, 0.0005), peer.hang() }
        local httpc = scripted.connected(script)
        assert.same({ 200, "0123456789ab" }, { fetch(httpc) })
        assert.equals(1, httpc:set_keepalive())
    end)
end)
