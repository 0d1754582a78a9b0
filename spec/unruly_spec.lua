--- Servers that drip, answer too early, stop reading, close one half, or send more or less than
--- they say.
local fault_server = require("spec.support.fault_server")
local faults = require("spec.support.faults")

local head, send, drip = fault_server.head, fault_server.send, fault_server.drip
local take, drain, stall = fault_server.take, fault_server.drain, fault_server.stall
local cut, half_close = fault_server.cut, fault_server.half_close

local OK = "HTTP/1.1 200 OK\r\n"
local COUNTED = OK .. "Content-Length: 10\r\n\r\nhello"
local CHUNKED = OK .. "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
local NO = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"

-- Milliseconds, for what never ends by itself.
local SHORT, LONG = 400, 20000
-- More than the buffers of both sockets take.
local UPLOAD = 32 * 1024 * 1024


after_each(faults.finish)

teardown(faults.tell)


-- What `at` and `code` of each case say has come of it: a status and a body where `at` is "done".
local function assert_calls(place, transport, cases)
    local outcomes = faults.calls(place, transport, cases)
    for i, case in ipairs(cases) do
        local outcome = outcomes[i]
        local code = outcome.status or (outcome.details or {}).code
        assert.same({ case.name, case.at, case.code, case.body },
                    { case.name, outcome.at, code, outcome.body }, outcome.err)
        assert.same({ 200, "good" }, { outcome.again.status, outcome.again.body },
                    outcome.again.err)
        assert.equals(case.reused or 0, case.reused or outcome.again.reused)
    end
end


-- Defines a test in each place and on each transport. `cases` gives them for a transport.
local function test(what, cases, only)
    for name, place, transport in faults.everywhere(only) do
        it(what .. ", " .. name, function()
            assert_calls(place, transport, cases(transport))
        end)
    end
end


-- An ending that TLS can tell from a body's end, and one that it cannot.
local function ended(transport)
    return transport.tls and { at = "body", code = "closed" }
        or { at = "done", code = 200, body = "hello" }
end


describe("a server that", function()
    test("is silent runs out of time", function(transport)
        local short = { timeouts = { LONG, LONG, SHORT } }
        local cases = {
            { name = "at first", raw = { stall }, options = { timeouts = { SHORT, LONG, SHORT } },
              at = transport.tls and "connect" or "request",
              code = transport.tls and "tls_timeout" or "read_timeout" },
            { name = "behind the handshake", steps = { stall }, options = short,
              at = "request", code = "read_timeout" },
            { name = "in the body", steps = { head, send(CHUNKED), stall }, options = short,
              at = "body", code = "read_timeout" },
        }
        return cases
    end)

    test("drips is ended by the deadline", function(transport)
        local function within(steps, raw)
            return { steps = steps, raw = raw, options = { deadline = 4 * SHORT } }
        end

        local slow = ("x"):rep(100)
        local cases = { within({ head, drip(1, OK) }),
                        within({ head, send(COUNTED), drip(1, slow) }),
                        within({ head, send(CHUNKED .. "0\r\n"), drip(1, "X: " .. slow) }) }
        for i, case in ipairs(cases) do
            case.name, case.at = "drips " .. i, i == 1 and "request" or "body"
            case.code = "read_timeout"
        end
        if transport.tls then
            local raw = { fault_server.pace(1), unpack(faults.on(transport, { head, send(OK) })) }
            local handshake = within(nil, raw)
            handshake.name, handshake.at, handshake.code = "handshake", "connect", "tls_timeout"
            cases[#cases + 1] = handshake
        end
        return cases
    end, function(place, transport) return place.name ~= "nginx" or transport.tls == "1.3" end)

    test("sends another length than it says is not believed", function(transport)
        local good = OK .. "Content-Length: 4\r\n\r\ngood"
        local function right(name, bytes, more)
            local case = { name = name, steps = { head, send(bytes), drain }, at = "done",
                           code = 200, body = "good", options = { keep = true } }
            for key, value in pairs(more or {}) do
                case[key] = value
            end
            return case
        end

        local none = { request = { method = "HEAD" }, keep = true }
        local cases = {
            right("a body that is too long", good .. "evil"),
            right("another response", good .. good),
            right("half a response", good .. "HTTP/1.1 200 OK\r\nContent-"),
            right("a line end", good .. "\r\n"),
            right("chunks that go on", OK .. "Transfer-Encoding: chunked\r\n\r\n"
                  .. "4\r\ngood\r\n0\r\n\r\n4\r\nevil\r\n0\r\n\r\n"),
            right("a body where there is none", good, { options = none, body = "" }),
            right("a body of 204", "HTTP/1.1 204 No Content\r\n\r\nevil",
                  { code = 204, body = "" }),
        }
        for how, step in pairs({ close = half_close, cut = cut, reset = fault_server.reset }) do
            cases[#cases + 1] = { name = "too short, " .. how, at = "body", code = "closed",
                                  steps = { head, send(COUNTED), step } }
            cases[#cases + 1] = { name = "chunks too short, " .. how, at = "body", code = "closed",
                                  steps = { head, send(CHUNKED), step } }
        end
        local unbounded = ended(transport)
        unbounded.name, unbounded.steps = "cut", { head, send(OK .. "\r\nhello"), cut }
        cases[#cases + 1] = unbounded
        cases[#cases + 1] = { name = "closed", at = "done", code = 200, body = "hello",
                              steps = { head, send(OK .. "\r\nhello") } }
        return cases
    end)

    test("answers before it has the request is heard", function()
        local upload = { upload = UPLOAD }
        return {
            { name = "and reads on", steps = { head, send(NO), drain },
              options = upload, at = "done", code = 413, body = "no" },
            { name = "and does not read on", steps = { head, send(NO), stall },
              options = upload, at = "done", code = 413, body = "no" },
            { name = "and closes", steps = { head, send(NO) },
              options = upload, at = "done", code = 413, body = "no" },
            { name = "and ends without a word", steps = { head, send(NO), cut },
              options = upload, at = "done", code = 413, body = "no" },
            { name = "and closes one half", steps = { head, send(NO), half_close, stall },
              options = upload, at = "done", code = 413, body = "no" },
            { name = "in the middle", steps = { head, take(1024 * 1024), send(NO), stall },
              options = upload, at = "done", code = 413, body = "no" },
            { name = "with half an answer", steps = { head, send("HTTP/1.1 413 Too"), cut },
              options = upload, at = "request", code = "closed" },
            { name = "with a success, and reads on", steps = { head, send(faults.GOOD),
              take(UPLOAD), drain }, options = upload, at = "done", code = 200, body = "good" },
        }
    end)

    test("stops reading a request runs out of time, or has closed", function()
        local upload = { upload = UPLOAD, timeouts = { LONG, SHORT, SHORT } }
        return {
            { name = "at once", steps = { stall }, options = upload,
              at = "request", code = "send_timeout" },
            { name = "behind the head", steps = { head, stall }, options = upload,
              at = "request", code = "send_timeout" },
            { name = "in the middle", steps = { head, take(UPLOAD / 2), stall }, options = upload,
              at = "request", code = "send_timeout" },
            { name = "with a success", steps = { head, send(faults.GOOD), stall },
              options = upload, at = "request", code = "send_timeout" },
            { name = "and closes", steps = { head, take(1024) },
              options = { upload = UPLOAD }, at = "request", code = "closed" },
            { name = "and resets", steps = { head, take(1024), fault_server.reset },
              options = { upload = UPLOAD }, at = "request", code = "closed" },
        }
    end)

    test("closes one half has closed", function()
        local upload = { upload = UPLOAD }
        return {
            { name = "at first", steps = { half_close, drain }, at = "request", code = "closed" },
            { name = "behind the request", steps = { head, half_close, drain },
              at = "request", code = "closed" },
            { name = "in the head", steps = { head, send(OK), half_close, drain },
              at = "request", code = "closed" },
            { name = "in the body", steps = { head, send(COUNTED), half_close, drain },
              at = "body", code = "closed" },
            -- It may come before the connection is used again, or after that.
            { name = "behind the response", steps = { head, send(faults.GOOD), half_close, drain },
              options = { keep = true }, at = "done", code = 200, body = "good", reused = "any" },
            { name = "to end a body", steps = { head, send(OK .. "\r\nhello"), half_close, drain },
              at = "done", code = 200, body = "hello" },
            { name = "in an upload", steps = { head, half_close, drain }, options = upload,
              at = "request", code = "closed" },
        }
    end)
end)
