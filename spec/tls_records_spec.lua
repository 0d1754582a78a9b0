--- Records that a TLS server must not send, or not there, and alerts in the middle of a response.
local fault_server = require("spec.support.fault_server")
local faults = require("spec.support.faults")

local head, send, record = fault_server.head, fault_server.send, fault_server.record
local wire, drain = fault_server.wire, fault_server.drain

local BEGINNING = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"
local CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

-- Types of records (RFC 8446, B.1).
local CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
local WARNING, FATAL = "\1", "\2"


after_each(faults.finish)

teardown(faults.tell)


local function is_tls(_, transport)
    return transport.tls
end


local function assert_outcomes(cases, outcomes)
    for i, case in ipairs(cases) do
        local outcome = outcomes[i]
        local details = outcome.details or {}
        assert.same({ case.name, case.at, case.code, case.alert },
                    { case.name, outcome.at, details.code, details.alert }, outcome.err)
        assert.equals(case.code == "closed", outcome.err == "closed")
        assert.is_string(details.hint)
        assert.same({ 200, "good", 0 },
                    { outcome.again.status, outcome.again.body, outcome.again.reused },
                    outcome.again.err)
    end
end


-- What is wrong at every place in a response: in front of it, in its head, and in its body.
local PLACES = {
    { name = "in front of the head", steps = { head }, at = "request" },
    { name = "in the head", steps = { head, send("HTTP/1.1 200 OK\r\nX:") }, at = "request" },
    { name = "in the body", steps = { head, send(BEGINNING) }, at = "body" },
}

local function behind_each(faulty)
    local cases = {}
    for _, place in ipairs(PLACES) do
        for _, fault in ipairs(faulty) do
            local steps = { unpack(place.steps) }
            for _, step in ipairs(fault.steps) do
                steps[#steps + 1] = step
            end
            steps[#steps + 1] = drain
            cases[#cases + 1] = { name = fault.name .. " " .. place.name, at = place.at,
                                  code = fault.code or "tls_alert", alert = fault.alert,
                                  steps = steps, options = fault.options }
        end
    end
    return cases
end


describe("a record that must not be there is a breach of TLS", function()
    local ANY = {
        { name = "text", steps = { wire("HTTP/1.1 400 Bad Request\r\n\r\n") } },
        { name = "zeros", steps = { wire(("\0"):rep(64)) } },
        { name = "a record that is too long",
          steps = { wire("\23\3\3\255\255"), wire(("x"):rep(65535)) } },
        { name = "an empty record of no encryption", steps = { wire("\23\3\3\0\0") } },
        { name = "data that is not encrypted", steps = { wire("\23\3\3\0\64" .. ("x"):rep(64)) } },
        { name = "an alert that is not encrypted", steps = { wire("\21\3\3\0\2\2\40") } },
        { name = "a version of TLS that there is not",
          steps = { wire("\23\9\9\0\64" .. ("x"):rep(64)) } },
        { name = "an unknown type", steps = { record(99, "x") } },
        { name = "an alert of one byte", steps = { record(ALERT, FATAL) } },
        { name = "an empty alert", steps = { record(ALERT, "") } },
        { name = "an alert of three bytes", steps = { record(ALERT, FATAL .. "\40\0") } },
        { name = "handshake messages of nothing", steps = { record(HANDSHAKE, "", 2000) } },
        { name = "an unknown handshake message", steps = { record(HANDSHAKE, "\99\0\0\1x") } },
        { name = "a ClientHello", steps = { record(HANDSHAKE, "\1\0\0\2\3\3") } },
        { name = "a Finished", steps = { record(HANDSHAKE, "\20\0\0\12" .. ("x"):rep(12)) } },
        { name = "empty records without end", steps = { record(DATA, "", 2000) } },
    }
    local ONLY = {
        ["1.2"] = {
            { name = "a new cipher", steps = { record(CHANGE_CIPHER_SPEC, "\1") } },
            { name = "a key update", steps = { record(HANDSHAKE, "\24\0\0\1\0") } },
        },
        ["1.3"] = {
            { name = "a new cipher", steps = { wire("\20\3\3\0\1\1") } },
            { name = "an encrypted new cipher", steps = { record(CHANGE_CIPHER_SPEC, "\1") } },
            { name = "a key update of no kind", steps = { record(HANDSHAKE, "\24\0\0\1\9") } },
            -- The next record has the old keys.
            { name = "a key update without new keys",
              steps = { record(HANDSHAKE, "\24\0\0\1\0"), send("x") } },
            { name = "a ticket that is none", steps = { record(HANDSHAKE, "\4\0\0\3xyz") } },
            { name = "a request to start anew", steps = { record(HANDSHAKE, "\0\0\0\0") } },
        },
    }

    for name, place, transport in faults.everywhere(is_tls) do
        it("anywhere in a response, " .. name, function()
            local faulty = { unpack(ANY) }
            for _, fault in ipairs(ONLY[transport.tls]) do
                faulty[#faulty + 1] = fault
            end
            local cases = behind_each(faulty)
            assert_outcomes(cases, faults.calls(place, transport, cases))
        end)
    end
end)


describe("in the place of a handshake", function()
    local function hello(bytes)
        local length = string.char(math.floor(#bytes / 256), #bytes % 256)
        return wire("\22\3\3" .. length .. bytes)
    end

    -- `code` where it is not that of a breach.
    local CASES = {
        { name = "text", bytes = "SSH-2.0-OpenSSH_9.2\r\n", code = "tls_protocol_version" },
        { name = "zeros", bytes = ("\0"):rep(64), code = "tls_protocol_version" },
        { name = "a record that is too long", bytes = "\22\3\3\255\255" .. ("x"):rep(65535) },
        { name = "an empty record", bytes = ("\22\3\3\0\0"):rep(100) },
        { name = "data", bytes = "\23\3\3\0\5hello" },
        { name = "a cipher", bytes = ("\20\3\3\0\1\1"):rep(100) },
        { name = "a message of no kind", steps = { hello("\99\0\0\0") } },
        { name = "a ServerHello that is cut off", steps = { hello("\2\0\0\4\3\3xx") } },
        { name = "a Certificate", steps = { hello("\11\0\0\3\0\0\0") } },
        { name = "a message that is too long",
          steps = { hello("\2\255\255\255" .. ("x"):rep(9000)) } },
        { name = "an alert of no kind", bytes = "\21\3\3\0\2\9\9", alert = 9 },
        { name = "an alert", bytes = "\21\3\3\0\2\2\40", code = "tls_no_common_cipher",
          alert = 40 },
        { name = "warnings without end", bytes = ("\21\3\3\0\2\1\90"):rep(2000) },
    }

    for name, place, transport in faults.everywhere(is_tls) do
        it("anything else ends it, " .. name, function()
            local cases = {}
            for i, case in ipairs(CASES) do
                local raw = { fault_server.take(100), unpack(case.steps or { wire(case.bytes) }) }
                cases[i] = { name = case.name, at = "connect", code = case.code or "tls_alert",
                             alert = case.alert, raw = raw }
                raw[#raw + 1] = drain
            end
            assert_outcomes(cases, faults.calls(place, transport, cases))
        end)
    end
end)


describe("an alert in the middle of a response", function()
    -- All that there are (RFC 8446, B.2), and two that there are not; without those of an ending.
    local NUMBERS = { 10, 20, 21, 22, 30, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 60, 70,
                      71, 80, 86, 109, 110, 111, 112, 113, 114, 115, 116, 120, 99, 255 }
    local CLIENT = "^client_certificate_%a"

    for name, place, transport in faults.everywhere(is_tls) do
        it("is told by its number, and never ends a body, " .. name, function()
            local cases = {}
            for i, number in ipairs(NUMBERS) do
                cases[i] = { steps = { head, send(BEGINNING),
                                       record(ALERT, FATAL .. string.char(number)), drain } }
            end
            for i, outcome in ipairs(faults.calls(place, transport, cases)) do
                local code = outcome.details.code
                assert.same({ "body", NUMBERS[i] }, { outcome.at, outcome.details.alert }, code)
                assert(code == "tls_alert" or code == "tls_protocol_version" or code:find(CLIENT)
                       or code == "tls_no_common_cipher", code)
                assert.equals(200, outcome.again.status)
            end
        end)

        it("that is a farewell leaves the body cut off, " .. name, function()
            local cases = {}
            for _, text in ipairs({ BEGINNING, CHUNKED }) do
                for _, level in ipairs({ WARNING, FATAL }) do
                    cases[#cases + 1] = { name = "close_notify", at = "body", code = "closed",
                                          steps = { head, send(text), record(ALERT, level .. "\0"),
                                                    drain } }
                end
            end
            cases[#cases + 1] = { name = "user_canceled", at = "body", code = "closed", steps = {
                head, send(BEGINNING), record(ALERT, WARNING .. "\90"),
                record(ALERT, WARNING .. "\0"), drain } }
            assert_outcomes(cases, faults.calls(place, transport, cases))
        end)

        it("that is a farewell is the last word, " .. name, function()
            local cases = { { name = "more behind it", at = "body", code = "closed", steps = {
                head, send(BEGINNING), record(ALERT, WARNING .. "\0"), send("world"), drain } } }
            assert_outcomes(cases, faults.calls(place, transport, cases))
        end)
    end
end)
