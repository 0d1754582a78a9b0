--- Stages of a call over HTTP/2, for stages_spec.lua: see there.
local frames = require("spec.support.frames")
local peer = require("spec.support.peer")

local SETTINGS, PREFACE = peer.send(frames.SETTINGS), peer.receive(24)
local REQUEST, REQUEST_HEAD = frames.await_request(1), frames.await_head(1)
local THERE, END = peer.tell("there"), peer.receive_to_end()

local READ_HEAD = { "read", "read_timeout", "response" }
local READ_BODY = { "read", "read_timeout", "body" }
local SEND = { "send", "send_timeout", "send" }

-- SETTINGS with a bound on streams, and no word on the client's own.
local ONE_STREAM = frames.frame(0x4, 0, 0, "\0" .. string.char(frames.MAX_CONCURRENT_STREAMS)
                                           .. "\0\0\0\1")

-- More than a stream may send before the server says more.
local LARGE = "('x'):rep(100000)"


local function answered(bytes)
    return { SETTINGS, REQUEST, peer.send(bytes), THERE, END }
end


-- One connection that says nothing, and one that answers, and so on.
local function by_turns(count)
    local scripts = {}
    for i = 1, count, 2 do
        scripts[i] = { PREFACE, THERE, END }
        scripts[i + 1] = { SETTINGS, REQUEST, peer.send(frames.response(1, "some")), END }
    end
    return scripts
end


return {
    {
        name = "the handshake", ends = { "connect", "tls_timeout", "tls" },
        script = { peer.receive(50), THERE, END }, deadline = true,
        work = "return call(httpc, run, tls(run, { http_version = 2 }))",
    },
    {
        name = "the server's settings", ends = { "connect", "connect_timeout", "connect" },
        script = { PREFACE, THERE, END }, deadline = true,
        work = "return call(httpc, run, http2(run))",
    },
    {
        name = "another one opens the connection",
        ends = { "connect", "connect_timeout", "connect" },
        script = { PREFACE, THERE, END }, deadline = true, told = "",
        before = [[
            local before, opener = told(), http.new()
            local thread = ngx.thread.spawn(opener.connect, opener, http2(run))
            assert(wait_until(function() return told() > before end))
            return function()
                ngx.thread.kill(thread)
                thread = nil
            end
        ]],
        work = "return call(httpc, run, http2(run))",
    },
    {
        name = "opening the connection for another one, which opens its own",
        scripts = by_turns(20),
        after = [[
            local before = stats().operations_in_flight
            local body, err
            ngx.thread.spawn(function()
                local other = http.new()
                body, err = call(other, run, http2(run))
                other:close()
            end)
            assert(wait_until(function() return stats().operations_in_flight > before end))
            return function()
                -- It goes on when the client that opens the connection has been collected.
                wait_until(function()
                    collectgarbage()
                    return body or err
                end)
                return body ~= "some" and "the other one got " .. tostring(err) or nil
            end
        ]],
        work = "return call(httpc, run, http2(run))",
    },
    {
        name = "waiting for a place", ends = { "connect", "connect_timeout", "connect" },
        script = { SETTINGS, END }, deadline = true, told = "",
        before = [[
            local first = http.new()
            assert(first:connect(http2(run, { pool_size = 1, backlog = 5 })))
            return function() first:close() end
        ]],
        work = "return call(httpc, run, http2(run, { pool_size = 1, backlog = 5 }))",
    },
    {
        name = "waiting for a free stream", ends = READ_HEAD,
        -- The server allows less when both are on the connection.
        script = { SETTINGS, REQUEST,
                   peer.send(ONE_STREAM .. frames.PING), frames.await_pong(), THERE, END },
        work = [[
            local before, first = told(), http.new()
            assert(first:connect(http2(run)))
            assert(httpc:connect(http2(run)))
            assert(first:send_request({}))
            assert(wait_until(function() return told() > before end))
            local res, err, details = httpc:request({})
            first:close()
            return res, err, details
        ]],
    },
    {
        name = "connected", rests = true, script = { SETTINGS, END },
        work = "return httpc:connect(http2(run))",
    },
    {
        name = "sending a body that the server has no room for", ends = SEND,
        script = { SETTINGS, REQUEST_HEAD, THERE, END }, deadline = true,
        work = "return call(httpc, run, http2(run), { method = 'PUT', body = " .. LARGE .. " })",
    },
    {
        name = "sending pieces that the server has no room for", ends = SEND,
        script = { SETTINGS, REQUEST_HEAD, THERE, END }, deadline = true,
        work = "return call(httpc, run, http2(run), { method = 'PUT', body = no_end })",
    },
    {
        name = "in the iterator of a body", script = { SETTINGS, END }, says_so = true,
        work = [[
            local given
            return call(httpc, run, http2(run), { method = "PUT", body = function()
                if given then
                    run.is_there = true
                    ngx.sleep(10)
                end
                given = true
                return "some"
            end })
        ]],
    },
    {
        name = "waiting for 100 Continue", ends = READ_HEAD,
        script = { SETTINGS, REQUEST_HEAD, THERE, END }, deadline = true,
        work = [[
            return call(httpc, run, http2(run), { method = "PUT", body = "some",
                                                  headers = { Expect = "100-continue" } })
        ]],
    },
    {
        name = "waiting for the head", ends = READ_HEAD, script = { SETTINGS, REQUEST, THERE, END },
        deadline = true, work = "return call(httpc, run, http2(run))",
    },
    {
        name = "behind an interim response", ends = READ_HEAD, deadline = true,
        script = answered((frames.headers(1):gsub("200", "103"))),
        work = "return call(httpc, run, http2(run))",
    },
    {
        name = "the response is due", rests = true, script = { SETTINGS, REQUEST, END },
        work = [[
            assert(httpc:connect(http2(run)))
            return httpc:send_request({})
        ]],
    },
    {
        name = "read_body", ends = READ_BODY, deadline = true,
        script = answered(frames.headers(1) .. frames.data(1, "some")),
        work = "return call(httpc, run, http2(run))",
    },
    {
        name = "body_reader", ends = READ_BODY,
        script = answered(frames.headers(1) .. frames.data(1, "some")),
        work = [[
            assert(httpc:connect(http2(run)))
            local res = assert(httpc:request({}))
            assert(res.body_reader(4) == "some")
            return res.body_reader(4)
        ]],
    },
    {
        name = "between two parts of a body", rests = true,
        script = answered(frames.headers(1) .. frames.data(1, "some")),
        work = [[
            assert(httpc:connect(http2(run)))
            local res = assert(httpc:request({}))
            return res.body_reader(4)
        ]],
    },
    {
        name = "read ahead and not taken", rests = true,
        script = answered(frames.headers(1) .. frames.data(1, ("x"):rep(16000)):rep(16)),
        work = [[
            assert(httpc:connect(http2(run)))
            return httpc:request({})
        ]],
    },
    {
        name = "in front of the trailers", ends = READ_BODY, deadline = true,
        script = answered(frames.headers(1, { { "content-length", "4" } })
                          .. frames.data(1, "some")),
        work = "return call(httpc, run, http2(run))",
    },
    {
        name = "the second response of a pipeline", ends = READ_HEAD,
        script = answered(frames.response(1, "some")),
        work = [[
            assert(httpc:connect(http2(run)))
            local responses = assert(httpc:request_pipeline({ {}, {} }))
            assert(responses[1]:read_body() == "some")
            return httpc:read_response({})
        ]],
    },
    {
        name = "a pipeline of which nothing is read", rests = true,
        script = answered(frames.response(1, "some")),
        work = [[
            assert(httpc:connect(http2(run)))
            return httpc:request_pipeline({ {}, {}, {} })
        ]],
    },
    {
        name = "set_keepalive", rests = true, script = answered(frames.response(1, "some")),
        work = [[
            assert(call(httpc, run, http2(run)))
            return httpc:set_keepalive()
        ]],
    },
}
