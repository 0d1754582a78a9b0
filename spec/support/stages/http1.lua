--- Stages of a call over HTTP/1.1, for stages_spec.lua: see there.
local peer = require("spec.support.peer")

-- What a server has received or said by the time that a call is at its stage.
local HEAD, HELLO = peer.receive_until("\r\n\r\n"), peer.receive(50)
local THERE, END = peer.tell("there"), peer.receive_to_end()

local CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
local LENGTH = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"

local READ_HEAD = { "read", "read_timeout", "response" }
local READ_BODY = { "read", "read_timeout", "body" }
local SEND = { "send", "send_timeout", "send" }


local function answered(bytes)
    return { HEAD, peer.send(bytes), THERE, END }
end


return {
    {
        name = "looking a name up", ends = { "connect", "connect_timeout", "connect" },
        deadline = true,
        -- A file of this name holds the answer up.
        before = [[
            run.host = run.name .. ".held.test"
            run.file = ${lookups} .. "." .. run.host
            assert(io.open(run.file, "w")):close()
            return function() os.remove(run.file) end
        ]],
        told = [[
            local file = io.open(${lookups})
            local text = file and file:read("*a") or ""
            return text:find(run.name .. ".held", 1, true) and 1 or 0
        ]],
        work = "return call(httpc, run, plain(run, { host = run.host }))",
    },
    {
        name = "waiting for a place", ends = { "connect", "connect_timeout", "connect" },
        script = { END }, deadline = true, told = "",
        before = [[
            run.first = http.new()
            assert(run.first:connect(plain(run, { pool_size = 1, backlog = 5 })))
            return function() run.first:close() end
        ]],
        work = "return call(httpc, run, plain(run, { pool_size = 1, backlog = 5 }))",
    },
    {
        name = "connecting", ends = { "connect", "connect_timeout", "connect" }, full = true,
        deadline = true, told = "", work = "return call(httpc, run, plain(run))",
    },
    {
        name = "a proxy's answer to CONNECT", ends = { "connect", "connect_timeout", "proxy" },
        script = { HEAD, THERE, END }, deadline = true,
        work = [[
            return call(httpc, run, tls(run, { host = "origin.test", proxy_opts = {
                https_proxy = "http://127.0.0.1:" .. port } }))
        ]],
    },
    {
        name = "the handshake with a proxy",
        ends = { "connect", "tls_timeout", "tls" },
        script = { HELLO, THERE, END }, deadline = true,
        work = [[
            return call(httpc, run, tls(run, { host = "origin.test", proxy_opts = {
                https_proxy = "https://127.0.0.1:" .. port } }))
        ]],
    },
    {
        name = "the handshake in a tunnel",
        ends = { "connect", "tls_timeout", "tls" },
        script = { HEAD, peer.send("HTTP/1.1 200 OK\r\n\r\n"), HELLO, THERE, END }, deadline = true,
        work = [[
            return call(httpc, run, tls(run, { host = "origin.test", proxy_opts = {
                https_proxy = "http://127.0.0.1:" .. port } }))
        ]],
    },
    {
        name = "the handshake", ends = { "connect", "tls_timeout", "tls" },
        script = { HELLO, THERE, END }, deadline = true,
        work = "return call(httpc, run, tls(run))",
    },
    {
        name = "connected", rests = true, script = { END }, tls = true,
        work = "return httpc:connect(tls(run))",
    },
    {
        name = "sending a body that nobody reads", ends = SEND,
        script = { HEAD, THERE, peer.hang() }, deadline = true, tls = true,
        work = [[
            return call(httpc, run, tls(run), { method = "PUT", body = ("x"):rep(16000000) })
        ]],
    },
    {
        name = "sending pieces that nobody reads", ends = SEND,
        script = { HEAD, THERE, peer.hang() }, deadline = true, tls = true,
        work = [[
            return call(httpc, run, tls(run), { method = "PUT", body = no_end,
                                                headers = { ["Content-Length"] = 1e9 } })
        ]],
    },
    {
        name = "in the iterator of a body", script = { HEAD, END }, tls = true, says_so = true,
        work = [[
            local given
            return call(httpc, run, tls(run), {
                method = "PUT", headers = { ["Content-Length"] = 1000 },
                body = function()
                    if given then
                        run.is_there = true
                        ngx.sleep(10)
                    end
                    given = true
                    return "some"
                end,
            })
        ]],
    },
    {
        name = "in an iterator that raises an error", rests = true, script = { HEAD, END },
        tls = true,
        work = [[
            assert(not call(httpc, run, tls(run), {
                method = "PUT", headers = { ["Content-Length"] = 1000 },
                body = function() error("raised by the spec") end,
            }))
            return true
        ]],
    },
    {
        name = "waiting for 100 Continue", ends = READ_HEAD, script = { HEAD, THERE, END },
        deadline = true, tls = true,
        work = [[
            return call(httpc, run, tls(run), { method = "PUT", body = "some",
                                                headers = { Expect = "100-continue" } })
        ]],
    },
    {
        name = "waiting for the head", ends = READ_HEAD, script = { HEAD, THERE, END },
        deadline = true, tls = true, work = "return call(httpc, run, tls(run))",
    },
    {
        name = "behind an interim response", ends = READ_HEAD,
        script = answered("HTTP/1.1 103 Early Hints\r\n\r\n"), deadline = true, tls = true,
        work = "return call(httpc, run, tls(run))",
    },
    {
        name = "in the middle of the head", ends = READ_HEAD, script = answered("HTTP/1.1 200 "),
        deadline = true, tls = true, work = "return call(httpc, run, tls(run))",
    },
    {
        name = "the response is due", rests = true, script = { HEAD, END }, tls = true,
        work = [[
            assert(httpc:connect(tls(run)))
            return httpc:send_request({})
        ]],
    },
    {
        name = "read_body", ends = READ_BODY, script = answered(LENGTH .. "some"),
        deadline = true, tls = true, work = "return call(httpc, run, tls(run))",
    },
    {
        name = "body_reader", ends = READ_BODY, script = answered(LENGTH .. "some"), tls = true,
        work = [[
            assert(httpc:connect(tls(run)))
            local res = assert(httpc:request({}))
            assert(res.body_reader(4) == "some")
            return res.body_reader(4)
        ]],
    },
    {
        name = "between two parts of a body", rests = true, script = answered(LENGTH .. "some"),
        tls = true,
        work = [[
            assert(httpc:connect(tls(run)))
            local res = assert(httpc:request({}))
            return res.body_reader(4)
        ]],
    },
    {
        name = "read ahead and not taken", rests = true,
        script = answered(LENGTH .. ("x"):rep(900000)), tls = true,
        work = [[
            assert(httpc:connect(tls(run)))
            return httpc:request({})
        ]],
    },
    {
        name = "in trailers", ends = READ_BODY,
        script = answered(CHUNKED .. "4\r\nsome\r\n0\r\nX: "), deadline = true,
        tls = true, work = "return call(httpc, run, tls(run))",
    },
    {
        name = "the second response of a pipeline", ends = READ_HEAD,
        script = answered("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsome"), tls = true,
        work = [[
            assert(httpc:connect(tls(run)))
            local responses = assert(httpc:request_pipeline({ {}, {} }))
            assert(responses[1]:read_body() == "some")
            return httpc:read_response({})
        ]],
    },
    {
        name = "a pipeline of which nothing is read", rests = true,
        script = answered("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsome"), tls = true,
        work = [[
            assert(httpc:connect(tls(run)))
            return httpc:request_pipeline({ {}, {}, {} })
        ]],
    },
    {
        name = "set_keepalive", rests = true, told = "",
        work = [[
            port = ${up}
            assert(call(httpc, run, tls(run, { pool = "kept" })))
            return httpc:set_keepalive()
        ]],
    },
}
