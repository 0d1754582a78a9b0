--- Servers that send without end: what is kept of it is bounded, and so is the time.
local fault_server = require("spec.support.fault_server")
local faults = require("spec.support.faults")
local places = require("spec.support.places")

local head, send, send_often = fault_server.head, fault_server.send, fault_server.send_often
local record, say, FOREVER = fault_server.record, fault_server.say, fault_server.FOREVER

local OK = "HTTP/1.1 200 OK\r\n"
local CHUNKED = OK .. "Transfer-Encoding: chunked\r\n\r\n"

local HANDSHAKE, DATA = 22, 23
-- Bytes of a full TLS record.
local FULL = ("x"):rep(16384)

-- Megabytes that a call may take: all that is read ahead of anybody is some hundred kilobytes, and
-- what is more is the allocators' and the first call's.
local BOUND = 24
-- Milliseconds, for what never ends by itself.
local SHORT, LONG = 500, 20000


after_each(faults.finish)

teardown(faults.tell)


local function assert_outcomes(cases, outcomes)
    for i, case in ipairs(cases) do
        local outcome = outcomes[i]
        local details = outcome.details or {}
        local code = details.code == case.or_code and case.code or details.code
        assert.same({ case.name, case.at, case.code }, { case.name, outcome.at, code },
                    outcome.err)
        assert.is_true(outcome.grown < (case.bound or BOUND),
                       case.name .. " took " .. outcome.grown .. " MB")
        assert.same({ 200, "good", 0 },
                    { outcome.again.status, outcome.again.body, outcome.again.reused },
                    outcome.again.err)
    end
end


local function a_ticket()
    -- Lifetime, age, a nonce, the ticket and no extensions (RFC 8446, 4.6.1).
    local ticket = "\0\0\28\32" .. "\0\0\0\1" .. "\1n" .. "\0\32" .. ("t"):rep(32) .. "\0\0"
    return "\4\0\0" .. string.char(#ticket) .. ticket
end


-- Everything but `name`, `at`, `code` and `bound` is for faults.calls.
local function floods(transport)
    local unlimited = { max_header_size = 2 ^ 40, max_headers = 1000 }
    local cases = {
        { name = "header lines", at = "request", code = "http_too_large",
          steps = { head, send(OK), send_often(FOREVER, ("X-Many: 1\r\n"):rep(1000)) } },
        { name = "a header line", at = "request", code = "http_too_large",
          steps = { head, send(OK .. "X: "), send_often(FOREVER, FULL) } },
        { name = "a status line", at = "request", code = "http_too_large",
          steps = { head, send("HTTP/1.1 200 "), send_often(FOREVER, FULL) } },
        { name = "a line of no kind", at = "request", code = "http_too_large",
          steps = { head, send_often(FOREVER, FULL) } },
        { name = "interim responses", at = "request", code = "http_malformed",
          steps = { head, send_often(FOREVER, "HTTP/1.1 100 Continue\r\n\r\n") } },
        { name = "long interim responses", at = "request", code = "http_malformed",
          steps = { head, send_often(FOREVER, "HTTP/1.1 103 Early Hints\r\nLink: "
                                     .. ("x"):rep(16000) .. "\r\n\r\n") } },
        { name = "trailers", at = "body", code = "http_too_large",
          steps = { head, send(CHUNKED .. "0\r\n"),
                    send_often(FOREVER, ("X: 1\r\n"):rep(1000)) } },
        { name = "a trailer", at = "body", code = "http_too_large",
          steps = { head, send(CHUNKED .. "0\r\nX: "), send_often(FOREVER, FULL) } },
        { name = "an extension of a chunk", at = "body", code = "http_malformed",
          steps = { head, send(CHUNKED .. "5;"), send_often(FOREVER, FULL) } },
        { name = "zeros in front of a size", at = "body", code = "http_malformed",
          steps = { head, send(CHUNKED), send_often(FOREVER, ("0"):rep(1000)) } },
        { name = "a length over the bound", at = "body", code = "http_too_large",
          options = { request = { max_body_size = 1024 * 1024 } },
          steps = { head, send(OK .. "Content-Length: 1073741824\r\n\r\n"),
                    send_often(FOREVER, FULL) } },
        { name = "a body without a length", at = "body", code = "http_too_large",
          options = { request = { max_body_size = 1024 * 1024 } },
          steps = { head, send(OK .. "\r\n"), send_often(FOREVER, FULL) } },
        { name = "chunks", at = "body", code = "http_too_large",
          options = { request = { max_body_size = 1024 * 1024 } },
          steps = { head, send(CHUNKED), send_often(FOREVER, "4000\r\n" .. FULL .. "\r\n") } },
        { name = "small chunks", at = "body", code = "http_too_large",
          options = { request = { max_body_size = 4 * 1024 * 1024 } },
          steps = { head, send(CHUNKED), send_often(FOREVER, ("1\r\nx\r\n"):rep(2000)) } },
        { name = "small chunks with long extensions, in time", at = "body", code = "read_timeout",
          options = { deadline = 4 * SHORT },
          steps = { head, send(CHUNKED),
                    send_often(FOREVER, ("1;" .. ("x"):rep(4000) .. "\r\nx\r\n"):rep(4)) } },
        { name = "a body that nobody bounds, in time", at = "body", code = "read_timeout",
          options = { deadline = 4 * SHORT },
          steps = { head, send(OK .. "\r\n"), fault_server.drip(0.005, FULL) } },
        { name = "a head with no bound to speak of, in time", at = "request", code = "read_timeout",
          options = { timeouts = { LONG, LONG, SHORT }, request = unlimited },
          steps = { head, send(OK .. "X: "), fault_server.drip(0.005, FULL) } },
        -- It may have come before the request was sent, which it is not then.
        { name = "bytes before anything was asked", at = "request", code = "http_too_large",
          or_code = "closed",
          steps = { send_often(FOREVER, ("HTTP/1.1 999\r\n"):rep(1000)) } },
    }
    local more = {
        ["1.3"] = {
            { name = "tickets in front of a response", at = "request", code = "read_timeout",
              options = { timeouts = { LONG, LONG, SHORT } },
              steps = { head, record(HANDSHAKE, a_ticket(), FOREVER) } },
            { name = "tickets in a body", at = "body", code = "read_timeout",
              options = { timeouts = { LONG, LONG, SHORT } },
              steps = { head, send(OK .. "Content-Length: 9\r\n\r\n"),
                        record(HANDSHAKE, a_ticket(), FOREVER) } },
        },
    }
    for _, case in ipairs(more[transport.tls] or {}) do
        cases[#cases + 1] = case
    end
    return cases
end


describe("a flood", function()
    for name, place, transport in faults.everywhere() do
        it("of each kind ends with its error, in time and in memory, " .. name, function()
            local cases = floods(transport)
            assert_outcomes(cases, faults.calls(place, transport, cases))
        end)
    end
end)


describe("a body of a gigabyte", function()
    local PIECES = 65536

    local BODIES = {
        ["counted"] = { send(OK .. "Content-Length: 1073741824\r\n\r\n"),
                        send_often(PIECES, FULL) },
        ["of one chunk"] = { send(CHUNKED .. "40000000\r\n"), send_often(PIECES, FULL),
                             send("\r\n0\r\n\r\n") },
    }

    for name, place, transport in faults.everywhere() do
        it("is streamed in little memory, " .. name, function()
            local form = transport.tls == "1.2" and "of one chunk" or "counted"
            local outcomes = faults.calls(place, transport, {
                { steps = { head, unpack(BODIES[form]) }, options = { stream = true } },
            })
            assert.same({ "done", 1073741824 }, { outcomes[1].at, outcomes[1].length })
            assert.is_true(outcomes[1].grown < BOUND, "took " .. outcomes[1].grown .. " MB")
            assert.equals("good", outcomes[1].again.body)
        end)
    end

    for name, place, transport in faults.everywhere() do
        it("is refused at once if it is over max_body_size, " .. name, function()
            local cases = {}
            for form, steps in pairs(BODIES) do
                cases[#cases + 1] = { name = form, at = "body", code = "http_too_large",
                                      options = { request = { max_body_size = 1073741823 } },
                                      steps = { head, unpack(steps) } }
            end
            assert_outcomes(cases, faults.calls(place, transport, cases))
        end)
    end
end)


describe("a connection that is idle", function()
    -- The first connection answers, and floods when it has been given back.
    local function flooded(transport, flood)
        local answers = {}
        for i = 1, 20, 2 do
            answers[i], answers[i + 1] = head, send(faults.GOOD)
        end
        return faults.serve(transport,
            faults.on(transport, { head, send(faults.GOOD), unpack(flood) }),
            faults.on(transport, answers))
    end

    for name, place, transport in faults.everywhere() do
        it("is not taken, nor waited for, while the server floods it, " .. name, function()
            local kinds = { data = { send(FULL), say("flooding"), send_often(FOREVER, FULL) } }
            if transport.tls == "1.3" then
                kinds.tickets = { record(HANDSHAKE, a_ticket(), 1000), say("flooding"),
                                  record(HANDSHAKE, a_ticket(), FOREVER) }
            elseif transport.tls then
                kinds.empty = { record(DATA, "", 1000), say("flooding"),
                                record(DATA, "", FOREVER) }
            end
            for kind, flood in pairs(kinds) do
                local server = flooded(transport, flood)
                local options = faults.options(transport, server, { keep = true })
                local outcomes = faults.repeated(place, options, 4, server)
                for i, reused in ipairs({ 0, 0, 1, 2 }) do
                    assert.same({ kind, i, 200, reused },
                                { kind, i, outcomes[i].status, outcomes[i].reused },
                                outcomes[i].err)
                end
            end
        end)
    end
end)


describe("a proxy that floods", function()
    for _, place in ipairs(places) do
        it("has refused, in " .. place.name, function()
            local plain = faults.TRANSPORTS[1]
            local cases = {
                { name = "interim responses", code = "http_malformed",
                  steps = { head, send_often(FOREVER, "HTTP/1.1 100 Continue\r\n\r\n") } },
                { name = "header lines", code = "http_too_large",
                  steps = { head, send(OK), send_often(FOREVER, ("X: 1\r\n"):rep(1000)) } },
                { name = "a line", code = "http_too_large",
                  steps = { head, send_often(FOREVER, FULL) } },
                { name = "what is in front of the tunnel", code = "http_malformed",
                  steps = { head, send_often(FOREVER, OK .. "\r\n" .. FULL) } },
            }
            for _, case in ipairs(cases) do
                local proxy = faults.serve(plain, case.steps)
                local options = faults.options(faults.TRANSPORTS[3], { port = 1 }, {
                    proxy_opts = { https_proxy = "http://127.0.0.1:" .. proxy.port },
                })
                local outcome = faults.repeated(place, options, 1)[1]
                assert.same({ case.name, case.code, "proxy" },
                            { case.name, outcome.details.code, outcome.details.stage })
            end
        end)
    end

    it("or ends at any byte of its answer has closed, plain", function()
        local plain = faults.TRANSPORTS[1]
        for _, how in ipairs({ "close", "reset" }) do
            local proxy = faults.serve(plain, { fault_server.limit(how, 0, 1), head,
                                                send("HTTP/1.1 503 No\r\nX: y\r\n\r\n") })
            local options = faults.options(faults.TRANSPORTS[3], { port = 1 }, {
                proxy_opts = { https_proxy = "http://127.0.0.1:" .. proxy.port },
            })
            local outcomes = faults.repeated(places[1], options, 26)
            for i = 1, 25 do
                assert.same({ "closed", "proxy" },
                            { outcomes[i].details.code, outcomes[i].details.stage })
            end
            assert.equals("proxy_refused", outcomes[26].details.code)
        end
    end)
end)
