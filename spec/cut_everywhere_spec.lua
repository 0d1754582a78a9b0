--- Connections that end at every single byte of what a server sends: never a short success, never a
--- hang.
local fault_server = require("spec.support.fault_server")
local faults = require("spec.support.faults")
local places = require("spec.support.places")

local head, send = fault_server.head, fault_server.send
local limit = fault_server.limit

-- Milliseconds: for what is known never to come.
local SHORT = 250

local TLS = { faults.TRANSPORTS[2], faults.TRANSPORTS[3] }
local LUAJIT = places[1]


after_each(faults.finish)

teardown(faults.tell)


-- Each part is a TLS record of its own.
local BODIES = {
    ["counted"] = { "HTTP/1.1 200 OK\r\n", "Content-Length: 4\r\n\r\n", "go", "od" },
    ["chunked"] = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chu", "nked\r\n\r\n", "2\r\ng",
                    "o\r\n2;x=y\r\n", "od\r", "\n0\r\nX-Sum", ": 1\r\n", "\r\n" },
    ["interim"] = { "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n", "Link: x\r\n\r",
                    "\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood" },
    ["unbounded"] = { "HTTP/1.0 200 OK\r\nX: y\r", "\n\r\n", "go", "od" },
}

local function answer(parts)
    local steps = { head }
    for i, part in ipairs(parts) do
        steps[i + 1] = send(part)
    end
    return steps
end


-- Everything but the last one, which is a success, is `closed`, in the order of a request.
local function assert_closed(order)
    local ranks = { ["request closed response"] = 1, ["body closed body"] = 2,
                    ["done 200 good"] = 3 }
    local rank = 0
    for _, what in ipairs(order) do
        assert(ranks[what] and ranks[what] > rank, table.concat(order, ", "))
        rank = ranks[what]
    end
    assert.equals("request closed response", order[1])
    assert.equals("done 200 good", order[#order])
end


-- In no certain order: a reset takes back what has been sent.
local function assert_all_closed(counts)
    for what in pairs(counts) do
        assert.truthy(({ ["connect closed tls"] = true, ["request closed response"] = true,
                         ["body closed body"] = true, ["done 200 good"] = true })[what], what)
    end
    assert.equals(1, counts["done 200 good"])
end


-- In no certain order: on a machine that is busy, any step may be out of time.
local function assert_timeouts(counts)
    for what in pairs(counts) do
        assert(what == "done 200 good" or what:find("^%a+ %a+_timeout %a+$"), what)
    end
    assert.equals(1, counts["done 200 good"])
end


local function in_front(step, steps)
    return { step, unpack(steps) }
end


describe("a server that ends at any byte of the handshake", function()
    for _, transport in ipairs(TLS) do
        it("has closed the connection, " .. transport.name, function()
            local server = faults.serve(transport,
                in_front(limit("close", 0, 1), faults.on(transport, answer(BODIES.chunked))))
            -- A signature of the handshake may be a byte longer or shorter than the one before.
            local _, counts = faults.sweep(LUAJIT, faults.options(transport, server))
            assert_all_closed(counts)
            assert.is_true(counts["connect closed tls"] > 700)
            assert.is_true(counts["request closed response"] > 50)
            assert.is_true(counts["body closed body"] > 100)
        end)

        it("with a reset has closed it too, " .. transport.name, function()
            local server = faults.serve(transport,
                in_front(limit("reset", 0, 7), faults.on(transport, answer(BODIES.chunked))))
            local _, counts = faults.sweep(LUAJIT, faults.options(transport, server))
            assert_all_closed(counts)
            assert.is_true(counts["connect closed tls"] > 100)
        end)

        it("and goes on in silence runs out of time, " .. transport.name, function()
            local server = faults.serve(transport,
                in_front(limit("stall", 0, 211), faults.on(transport, answer(BODIES.chunked))))
            local _, counts = faults.sweep(LUAJIT,
                                           faults.options(transport, server, { timeout = SHORT }))
            assert_timeouts(counts)
            assert.is_true(counts["connect tls_timeout tls"] > 2)
        end)
    end
end)


describe("a server that ends at any byte of a response", function()
    for form, parts in pairs(BODIES) do
        -- Without TLS, its end is all that a body without a length has. One form is enough to see
        -- that it is the same in nginx.
        local function is_worth_it(place, transport)
            return (form ~= "unbounded" or transport.tls)
                and (form == "chunked" or place.name ~= "nginx")
        end

        for name, place, transport in faults.everywhere(is_worth_it) do
            it("that is " .. form .. " has closed the connection, " .. name, function()
                local steps = answer(parts)
                steps[#steps + 1] = form ~= "unbounded" and fault_server.drain or nil
                for how, assert_outcome in pairs({ close = assert_closed,
                                                   reset = assert_all_closed }) do
                    local server = faults.serve(transport, faults.on(transport,
                        in_front(limit(how, 0, 1), steps)))
                    local order, counts = faults.sweep(place, faults.options(transport, server))
                    assert_outcome(how == "close" and order or counts)
                    assert.is_true(counts["request closed response"]
                                   + (counts["body closed body"] or 0) >= #table.concat(parts))
                end
            end)
        end
    end

    for name, place, transport in faults.everywhere() do
        it("in silence runs out of time, " .. name, function()
            local server = faults.serve(transport, faults.on(transport,
                in_front(limit("stall", 0, 71), answer(BODIES.chunked))))
            local _, counts = faults.sweep(place, faults.options(transport, server,
                                                                 { timeout = SHORT }))
            assert_timeouts(counts)
            assert.is_true(counts["request read_timeout response"] > 0)
        end)
    end
end)


describe("a byte that is another one", function()
    -- Those that may come of it.
    local CODES = {
        closed = true, tls_alert = true, tls_timeout = true, read_timeout = true,
        tls_protocol_version = true, tls_no_common_cipher = true, http2_unsupported = true,
        server_certificate_untrusted = true, server_certificate_invalid = true,
        server_certificate_expired = true, server_certificate_not_yet_valid = true,
        server_name_mismatch = true, client_certificate_rejected = true,
        client_certificate_unknown_ca = true,
    }

    for _, transport in ipairs(TLS) do
        it("is noticed anywhere in the handshake and behind it, " .. transport.name, function()
            local steps = answer(BODIES.chunked)
            steps[#steps + 1] = fault_server.drain
            local server = faults.serve(transport, in_front(fault_server.flip(0, 1),
                                                            faults.on(transport, steps)))
            -- Six bytes in a row that do not matter are behind the end.
            local _, counts = faults.sweep(LUAJIT, faults.options(transport, server,
                                                                  { timeout = SHORT }), 6)
            local unnoticed, noticed, codes = 0, 0, {}
            for what, count in pairs(counts) do
                local code = what:match("^%a+ ([%a_0-9]+) %a+$")
                if what:find("^done") then
                    assert.equals("done 200 good", what)
                    unnoticed = unnoticed + count
                else
                    assert.truthy(CODES[code], what)
                    codes[code] = (codes[code] or 0) + count
                    noticed = noticed + count
                end
            end
            -- The minor version of each record (RFC 8446, 5.1: it is to be ignored), and the end.
            assert.is_true(unnoticed <= 30, "unnoticed: " .. unnoticed)
            assert.is_true(codes.tls_alert > 100)
            assert.is_true(noticed > 900)
        end)
    end
end)
