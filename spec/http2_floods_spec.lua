--- Servers that send more than anybody takes, or allow less than they are asked for.
local frames = require("spec.support.frames")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

-- Bytes of a stream that a server may send before anybody takes them.
local WINDOW = 256 * 1024


local function connected(settings, ...)
    local server = scripted.serve({ script = { peer.send(frames.settings(settings)), ... } })
    return scripted.connect(server, { http_version = 2 }), server
end


local function interim(stream)
    return (frames.headers(stream):gsub("200", "103"))
end


local function whole_frames(stream, bytes)
    return frames.data(stream, ("x"):rep(16384)):rep(bytes / 16384)
end


-- Megabytes of memory that this process has.
local function resident()
    return tonumber(fs.read("/proc/self/status"):match("VmRSS:%s*(%d+) kB")) / 1024
end


after_each(scripted.finish)


describe("interim responses", function()
    it("come to an end", function()
        local httpc = connected(nil, frames.await_request(1),
                                peer.send(interim(1):rep(100) .. frames.response(1, "late")),
                                peer.receive_to_end())
        local res, err, details = httpc:request({})
        assert.is_nil(res)
        assert.matches("interim", err)
        assert.equals("http_malformed", details.code)
    end)

    it("come to an end when nobody waits for them", function()
        local httpc, server = connected(nil, frames.await_request(1),
                                        peer.send(interim(1):rep(100)),
                                        peer.receive_until(frames.reset_by_client(1,
                                            frames.CANCEL)),
                                        peer.pause(), peer.receive_to_end())
        assert(httpc:send_request({}))
        server:wait_for_event("1 waits")
        server:resume()
        local res, _, details = httpc:read_response({})
        assert.is_nil(res)
        assert.equals("http_malformed", details.code)
    end)
end)


describe("data", function()
    it("takes little more memory than it has bytes", function()
        local httpc, server = connected(nil, frames.await_request(1),
                                        peer.send(frames.headers(1)
                                            .. frames.data(1, "x"):rep(WINDOW) .. frames.PING),
                                        frames.await_pong(), peer.pause(),
                                        peer.send(frames.data(1, "end", true)),
                                        peer.receive_to_end())
        local before = resident()
        local res = assert(httpc:request({}))
        server:wait_for_event("1 waits")
        local grown = resident() - before
        assert.is_true(grown < 30, grown .. " MB")
        server:resume()
        assert.equals(WINDOW + 3, #assert(res:read_body()))
    end)

    it("that nobody takes is refused if it comes in frames of a byte", function()
        local flood = frames.data(1, "x"):rep(WINDOW) .. frames.data(3, "x"):rep(WINDOW)
        local httpc, server = connected(nil, frames.await_request(3),
                                        peer.send(frames.headers(1) .. frames.headers(3) .. flood
                                            .. frames.PING),
                                        frames.await_pong(), peer.receive_to_end())
        assert(httpc:send_request({}))
        assert(httpc:send_request({}))
        server:wait_for_event("1 read: ")
        local res, err = httpc:read_response({})
        if res then
            res, err = res:read_body()
        end
        assert.is_nil(res)
        assert.matches("ENHANCE_YOUR_CALM", err, 1, true)
    end)

    it("is asked for when that of before has been taken, and not earlier", function()
        local httpc, server = connected(nil, frames.await_request(1),
            peer.send(frames.headers(1) .. whole_frames(1, WINDOW) .. frames.PING),
            frames.await_pong(), peer.send(frames.PING), frames.await_pong(), peer.pause(),
            -- WINDOW_UPDATE of the stream
            peer.receive_until("\0\0\4\8\0\0\0\0\1"),
            peer.send(frames.data(1, "end", true)), peer.receive_to_end())
        local res = assert(httpc:request({}))
        server:wait_for_event("1 waits")
        assert.is_nil(server:received():find("\0\0\4\8\0\0\0\0\1", 1, true))
        server:resume()
        local count = 0
        for part in function() return res.body_reader(10000) end do
            count = count + #part
        end
        assert.equals(WINDOW + 3, count)
    end)

    it("may come while the request is being sent", function()
        local httpc = connected(nil, frames.await_head(1),
            peer.send(frames.headers(1) .. whole_frames(1, WINDOW)),
            peer.receive_until("\0\0\4\8\0\0\0\0\1"),
            peer.send(frames.window_update(0, 100000) .. frames.window_update(1, 100000)),
            peer.receive_until("the end"),
            peer.send(frames.data(1, "end", true)), peer.receive_to_end())
        local res = assert(httpc:request({ method = "POST",
                                           body = ("x"):rep(100000) .. "the end" }))
        assert.equals(200, res.status)
        assert.equals(WINDOW + 3, #assert(res:read_body()))
        assert.equals(1, httpc:set_keepalive())
    end)
end)


describe("a response that waits for its request", function()
    it("is waited for as long as that is being sent", function()
        local httpc = connected(nil, frames.await_head(1), peer.send(frames.headers(1)),
            -- Longer than it may take to answer, and less than it may take to read.
            peer.sleep(2), peer.send(frames.window_update(0, 100000)
                .. frames.window_update(1, 100000)),
            peer.receive_until("the end"),
            peer.send(frames.data(1, "end", true)), peer.receive_to_end())
        httpc:set_timeouts(10000, 10000, 1000)
        local res = assert(httpc:request({ method = "POST",
                                           body = ("x"):rep(100000) .. "the end" }))
        assert.equals("end", res:read_body())
        assert.equals(1, httpc:set_keepalive())
    end)

    it("is not waited for when the server does not read that", function()
        local httpc = connected(nil, frames.await_head(1), peer.send(frames.headers(1)),
                                peer.receive_to_end())
        httpc:set_timeouts(10000, 300, 10000)
        local res = assert(httpc:request({ method = "POST", body = ("x"):rep(100000) }))
        local body, _, details = res:read_body()
        assert.is_nil(body)
        assert.equals("send_timeout", details.code)
    end)
end)


describe("a server that allows no streams", function()
    it("is told of when the time is over", function()
        local server = scripted.serve({ script = {
            peer.send(frames.settings({ [frames.MAX_CONCURRENT_STREAMS] = 0 })), peer.hang(),
        } })
        local httpc = http.new()
        httpc:set_timeouts(300, 10000, 10000)
        local ok, err, details = httpc:connect({ scheme = "http", host = "localhost",
                                                 port = server.port, http_version = 2 })
        assert.is_nil(ok)
        assert.equals("timeout", err)
        assert.equals("connect_timeout", details.code)
        assert.matches("MAX_CONCURRENT_STREAMS", details.hint, 1, true)
    end)

    it("is waited for", function()
        local httpc = connected({ [frames.MAX_CONCURRENT_STREAMS] = 0 },
            -- that it has seen this
            peer.receive_until(frames.frame(0x4, 0x1, 0, "")),
            peer.send(frames.frame(0x4, 0, 0, "\0\3\0\0\0\1")),
            frames.await_request(1), peer.send(frames.response(1, "hello")),
            peer.receive_to_end())
        assert.equals("hello", assert(httpc:request({})):read_body())
    end)
end)


describe("HTTP/1.1, where a server demands it,", function()
    it("is what the hint says", function()
        local httpc = connected(nil, frames.await_request(1),
                                peer.send(frames.reset(1, frames.HTTP_1_1_REQUIRED)),
                                peer.receive_to_end())
        local res, err, details = httpc:request({})
        assert.is_nil(res)
        assert.equals("http2_reset", details.code)
        assert.matches("HTTP_1_1_REQUIRED", err, 1, true)
        assert.matches("set http_version to 1.1", details.hint, 1, true)
    end)
end)
