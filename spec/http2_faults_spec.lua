local frames = require("spec.support.frames")
local http = require("resty.mtls.http")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local ANSWERS = { frames.await_request(1), peer.send(frames.response(1, "again")),
                  peer.receive_to_end() }


-- A client of HTTP/2, connected to a peer whose connections go through these scripts.
local function connected(...)
    local scripts = {}
    for i, script in ipairs({ ... }) do
        scripts[i] = { peer.send(frames.SETTINGS), unpack(script) }
    end
    local server = scripted.serve({ scripts = scripts })
    return scripted.connect(server, { http_version = 2 }), server
end


local function assert_fails(code, httpc, params)
    local status, err, details = scripted.fetch(httpc, params)
    assert.is_nil(status)
    assert.equals(code, details.code, err)
    return err, details
end


local function assert_works(httpc, params)
    local status, body = scripted.fetch(httpc, params)
    assert.equals(200, status, body)
    assert.equals("again", body)
end


after_each(scripted.finish)


describe("a request that the server did not process", function()
    local FAULTS = {
        ["refused"] = frames.reset(1, frames.REFUSED_STREAM),
        ["above the last one of a GOAWAY"] = frames.goaway(0, frames.NO_ERROR),
        ["above the last one of a GOAWAY with an error"] =
            frames.goaway(0, frames.ENHANCE_YOUR_CALM),
    }

    for name, fault in pairs(FAULTS) do
        for _, method in ipairs({ "GET", "POST" }) do
            it("is sent once more on another connection: " .. name .. ", " .. method, function()
                local retries = http.stats().retries
                local httpc, server = connected(
                    { frames.await_request(1), peer.send(fault), peer.receive_to_end() }, ANSWERS)
                assert_works(httpc, { method = method })
                assert.equals(2, server:connections())
                assert.equals(1, http.stats().retries - retries)
                assert.equals(1, httpc:set_keepalive())
            end)
        end
    end

    it("is sent once more and no more", function()
        local httpc, server = connected({ frames.await_request(1), peer.send(FAULTS.refused),
                                          peer.receive_to_end() })
        local err = assert_fails("http2_reset", httpc)
        assert.matches("REFUSED_STREAM", err, 1, true)
        assert.equals(2, server:connections())
    end)

    it("is told of by name if the connection was at fault", function()
        local httpc = connected({ frames.await_request(1),
                                  peer.send(frames.goaway(0, frames.ENHANCE_YOUR_CALM)),
                                  peer.receive_to_end() })
        local err = assert_fails("http2_gone_away", httpc)
        assert.matches("ENHANCE_YOUR_CALM", err, 1, true)
    end)

    it("is not sent again if its body came from an iterator", function()
        local httpc, server = connected({ frames.await_head(1), peer.send(FAULTS.refused),
                                          peer.receive_to_end() }, ANSWERS)
        local given = false
        assert_fails("http2_reset", httpc, { method = "POST", body = function()
            given = not given
            return given and "abc" or nil
        end })
        assert.equals(1, server:connections())
    end)
end)


describe("a GOAWAY", function()
    it("lets the streams that it counts end, and no other begin", function()
        local httpc, server = connected({
            frames.await_request(1), peer.send(frames.headers(1) .. frames.data(1, "be")
                .. frames.goaway(1, frames.NO_ERROR)),
            peer.pause(), peer.send(frames.data(1, "gin", true)), peer.receive_to_end(),
        }, ANSWERS)
        local res = assert(httpc:request({}))
        assert.equals("be", res.body_reader())
        local other = scripted.connect(server, { http_version = 2 })
        assert_works(other)
        assert.equals(0, other:get_reused_times())
        server:resume()
        assert.equals("gin", res:read_body())
        assert.equals(2, (httpc:set_keepalive()))
        assert.equals(1, other:set_keepalive())
    end)

    it("on an idle connection is noticed before the next request", function()
        local httpc, server = connected({
            frames.await_request(1), peer.send(frames.response(1, "again")), peer.pause(),
            peer.send(frames.goaway(1, frames.NO_ERROR)), peer.close(),
        }, ANSWERS)
        assert_works(httpc)
        assert.equals(1, httpc:set_keepalive())
        local open = http.stats().connections_open
        server:resume()
        require("spec.support.process").wait_until("the connection is closed", function()
            return http.stats().connections_open == open - 1
        end)
        local retries = http.stats().retries
        assert_works(scripted.connect(server, { http_version = 2 }))
        assert.equals(2, server:connections())
        assert.equals(retries, http.stats().retries)
    end)
end)


describe("a stream", function()
    it("that the server resets fails, and the connection goes on", function()
        local httpc, server = connected({
            frames.await_request(1), peer.send(frames.reset(1, frames.INTERNAL_ERROR)),
            frames.await_request(3), peer.send(frames.response(3, "again")),
            peer.receive_to_end(),
        })
        local err, details = assert_fails("http2_reset", httpc)
        assert.matches("INTERNAL_ERROR", err, 1, true)
        assert.equals("response", details.stage)
        local other = scripted.connect(server, { http_version = 2 })
        assert_works(other)
        assert.equals(1, server:connections())
    end)

    for name, ending in pairs({
        ["a reset"] = { frames.reset(1, frames.NO_ERROR), "http2_reset" },
        ["the end of the connection"] = { "", "closed" },
    }) do
        it("that ends early has no body: " .. name, function()
            local httpc = connected({
                frames.await_request(1),
                peer.send(frames.headers(1) .. frames.data(1, "half") .. ending[1]), peer.close(),
            })
            local _, details = assert_fails(ending[2], httpc)
            assert.equals("body", details.stage)
        end)
    end

    for _, length in ipairs({ "3", "9" }) do
        it("whose body is not as long as announced is malformed: " .. length, function()
            local httpc = connected({
                frames.await_request(1),
                peer.send(frames.headers(1, { { "content-length", length } })
                    .. frames.data(1, "again", true)),
                peer.receive_to_end(),
            })
            assert_fails("http_malformed", httpc)
        end)
    end

    it("that stalls does not hold up others", function()
        local httpc, server = connected({
            frames.await_request(1), peer.send(frames.headers(1) .. frames.data(1, "half")),
            frames.await_request(3), peer.send(frames.response(3, "again")),
            peer.receive_to_end(),
        })
        local res = assert(httpc:request({}))
        assert.equals("half", res.body_reader())
        assert_works(scripted.connect(server, { http_version = 2 }))
        httpc:set_timeouts(100, 100, 100)
        assert.equals(1, httpc:close())
        server:wait_for_event("1 accepted")
        assert.equals(1, server:connections())
    end)

    it("whose window stays shut ends with the send time-out", function()
        local httpc = connected({ frames.await_head(1), peer.hang() })
        httpc:set_timeouts(1000, 200, 5000)
        assert_fails("send_timeout", httpc, { method = "POST", body = ("x"):rep(100000) })
    end)

    it("that was answered before it was complete is read, and reset then", function()
        local httpc, server = connected({
            frames.await_head(1), peer.send(frames.headers(1, {}):gsub("200", "403")
                .. frames.data(1, "no", true)),
            peer.receive_until(frames.reset_by_client(1, frames.CANCEL)), peer.receive_to_end(),
        })
        local status, body = scripted.fetch(httpc, { method = "POST", body = ("x"):rep(100000) })
        assert.equals(403, status)
        assert.equals("no", body)
        assert.is_true(#server:received() < 90000)
    end)

    it("may have interim responses", function()
        local httpc = connected({
            frames.await_request(1),
            peer.send(frames.headers(1):gsub("200", "103"):rep(3) .. frames.response(1, "again")),
            peer.receive_to_end(),
        })
        assert_works(httpc)
    end)
end)


describe("a server that floods", function()
    it("with CONTINUATION frames is left", function()
        local flood = frames.headers(1, {}, 0) .. frames.continuation(1, ("\0\1a\1b"):rep(10))
            :rep(100000)
        local httpc = connected({ frames.await_request(1), peer.send(flood),
                                  peer.receive_to_end() })
        assert_fails("http_malformed", httpc)
    end)

    it("with a header list above every bound is refused", function()
        local parts = { frames.headers(1, {}, 0) }
        for i = 1, 80 do
            parts[i + 1] = frames.continuation(1, frames.block({ { "x", ("y"):rep(15000) } }),
                                               i == 80 and frames.END_HEADERS or 0)
        end
        local httpc = connected({ frames.await_request(1), peer.send(table.concat(parts)),
                                  peer.receive_to_end() })
        assert_fails("http_malformed", httpc, { max_header_size = 2 ^ 30 })
    end)

    it("with resets is asked no more than twice for each request", function()
        local steps = {}
        for i = 0, 19 do
            steps[#steps + 1] = frames.await_request(2 * i + 1)
            steps[#steps + 1] = peer.send(frames.reset(2 * i + 1, frames.CANCEL))
        end
        local httpc, server = connected(steps)
        httpc:close()
        for _ = 1, 10 do
            local other = scripted.connect(server, { http_version = 2 })
            assert_fails("http2_reset", other)
        end
        assert.equals(1, server:connections())
    end)

    for name, bytes in pairs({
        ["no frames"] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ["data of no stream"] = frames.data(9, "x"),
        ["headers that are none"] = frames.frame(0x1, 0x4, 1, "\255\255\255\255\255\255"),
    }) do
        it("with " .. name .. " breaks HTTP/2", function()
            local httpc = connected({ frames.await_request(1), peer.send(bytes),
                                      peer.receive_to_end() })
            assert_fails("http_malformed", httpc)
        end)
    end
end)


describe("a server that is silent", function()
    -- How long the one who opens a connection would wait for a response.
    local PATIENCE = 300
    -- A ping of the client's, and the answer to it (RFC 9113, 6.7): h2 has one for all of them.
    local PING = frames.frame(0x6, 0, 0, "\59\124\219\122\11\135\22\180")
    local PONG = frames.frame(0x6, 1, 0, "\59\124\219\122\11\135\22\180")

    -- Two clients on one connection: one who is impatient, and one who is not.
    local function two_clients(...)
        local server = scripted.serve({ scripts = {
            { peer.send(frames.SETTINGS), ... }, { peer.send(frames.SETTINGS), unpack(ANSWERS) },
        } })
        local options = { scheme = "http", host = "localhost", port = server.port,
                          http_version = 2 }
        local impatient, patient = http.new(), http.new()
        impatient:set_timeouts(1000, 1000, PATIENCE)
        assert(impatient:connect(options))
        patient:set_timeout(10000)
        assert(patient:connect(options))
        assert.equals(1, patient:get_reused_times())
        return impatient, patient, server
    end

    it("is pinged, and left if it does not answer", function()
        local _, patient, server = two_clients(frames.await_request(1), peer.receive_to_end())
        local _, details = assert_fails("closed", patient)
        assert.matches("ping", details.hint, 1, true)
        assert.is_truthy(server:received():find(PING, 1, true))
        assert_works(scripted.connect(server, { http_version = 2 }))
    end)

    it("is pinged, and waited for if it answers", function()
        local _, patient = two_clients(
            frames.await_request(1), peer.receive_until(PING), peer.send(PONG),
            -- Longer than an answer to a ping is waited for.
            peer.sleep(1.5), peer.send(frames.response(1, "again")), peer.receive_to_end())
        assert_works(patient)
    end)

    it("is not given up for the haste of the one who opened the connection", function()
        local _, patient, server = two_clients(
            frames.await_request(1), peer.sleep(3 * PATIENCE / 1000),
            peer.send(frames.response(1, "again")), peer.receive_to_end())
        assert_works(patient)
        assert.equals(1, server:connections())
    end)

    it("with one request is trusted with others if it says something meanwhile", function()
        local impatient, patient, server = two_clients(
            frames.await_request(3),
            -- Takes longer than the impatient one waits, and never as long without a byte.
            peer.drip(frames.response(3, "again" .. (" "):rep(10)), 0.02),
            frames.await_request(5), peer.send(frames.response(5, "again")),
            peer.receive_to_end())
        assert(impatient:send_request({}))
        assert(patient:send_request({}))
        local res, _, details = impatient:read_response({})
        assert.is_nil(res)
        assert.equals("read_timeout", details.code)
        assert_works(scripted.connect(server, { http_version = 2 }))
        assert.equals(1, server:connections())
        assert.is_nil(server:received():find(PING, 1, true))
        assert.matches("^again", assert(patient:read_response({})):read_body())
    end)

    it("is not trusted with other requests before it has answered", function()
        local impatient, patient, server = two_clients(
            frames.await_request(1), peer.receive_until(PING), peer.pause(),
            peer.send(PONG .. frames.response(3, "again")), peer.receive_to_end())
        assert_fails("read_timeout", impatient)
        assert_works(scripted.connect(server, { http_version = 2 }))
        assert.equals(2, server:connections())
        patient:close()
        server:resume()
    end)
end)
