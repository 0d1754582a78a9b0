--- The network to the upstream is cut, so that packets vanish and nobody is told: no RST, no ICMP.
local cjson = require("cjson")
local in_flight_server = require("spec.support.in_flight_server")
local network = require("spec.support.network")
local nginx = require("spec.support.nginx")

local hosts, reason = network.join()
if hosts then
    hosts:leave()
end

local server, gateway, tried = nil, nil, 0


before_each(function()
    if not reason then
        hosts = network.join()
        server = hosts:far(function() return in_flight_server.start(network.FAR) end)
        gateway = nginx.gateway({ log_level = "warn" })
    end
end)

after_each(function()
    if not reason then
        gateway.process:kill()
        server:stop()
        hosts:leave()
    end
end)

teardown(function() io.stdout:write("calls that the network was cut for: ", tried, "\n") end)


local CUT = in_flight_server.CHUNK .. [[
    local h1, h2 = targets[1], targets[2]

    local function variant(of, timeouts, pool)
        local options = {}
        for name, value in pairs(of.options) do
            options[name] = value
        end
        options.pool = pool
        return { name = of.name, options = options, timeouts = timeouts }
    end

    -- Before anything is open.
    assert(in_flight.echo(h1, 0) and in_flight.echo(h2, 0))
    local files = select(2, in_flight.files())
    local open = http.stats().connections_open

    -- A busy machine may take its time to connect. Who opens a shared connection says for
    -- how long its server may leave a ping unanswered; others may have less time, or more.
    local HURRIED, PATIENT = { 30000, 1500, 1500 }, { 30000, 30000, 30000 }
    local hurried = { variant(h1, HURRIED, "hurried"), variant(h2, HURRIED, "hurried") }
    assert(in_flight.echo(variant(h2, { 30000, 30000, 5000 }, "hurried"), 0))
    local patient = variant(h2, PATIENT, "pings")
    patient.name = "pinged"
    assert(in_flight.echo(variant(h2, { 30000, 30000, 2000 }, "pings"), 0))
    local kept = { variant(h1, HURRIED, "idle"), variant(h2, HURRIED, "idle") }
    assert(in_flight.echo(variant(h2, { 30000, 30000, 5000 }, "idle"), 0))
    for _, target in ipairs(kept) do
        assert(in_flight.echo(target, 0))
    end

    local calls = in_flight.begin(hurried, 3)
    calls:add(in_flight.begin({ patient }, 3))
    local shaking = variant(h1, { 3000, 3000, 3000 })
    shaking.name, shaking.options.port = "handshake", ${handshake}
    calls:add(in_flight.begin({ shaking }, 3, { "head" }))
    await("cut")

    for _, target in ipairs(kept) do
        target.name = target.name .. " idle"
    end
    calls:add(in_flight.begin(kept, 1, { "head" }))
    local SHORT = { 1500, 1500, 1500 }
    local new = { variant(h1, SHORT, "new"), variant(h2, SHORT, "new") }
    for _, target in ipairs(new) do
        target.name = target.name .. " new"
    end
    calls:add(in_flight.begin(new, 3, { "head" }))
    local counts, outcomes = calls:wait()
    local longest = 0
    for _, outcome in ipairs(outcomes) do
        longest = math.max(longest, outcome.seconds)
        if outcome.hint:find("HTTP/2 ping", 1, true) then
            counts.pings = (counts.pings or 0) + 1
        end
    end
    local res, err, details = http.new():request_uri("https://${address}:${h1}/echo", {
        deadline = 500, ssl_server_name = "localhost", ssl_trusted_certificate = ${pem.ca.crt},
    })
    assert(not res and err == "timeout")
    counts["deadline: " .. details.code] = 1
    -- Among those that count as idle are some whose server has not answered a ping yet. For that it
    -- has four seconds: the network may not come back before.
    assert(in_flight.wait_until(function() return http.stats().connections_open == open end))
    assert_settled(files)
    say("ended")
    print(cjson.encode({ counts = counts, calls = #outcomes + 1, longest = longest }))

    await("mended")
    local answers = {}
    local used = { hurried[1], hurried[2], patient, kept[1], kept[2], new[1], new[2] }
    for _, target in ipairs(used) do
        target.timeouts = { 30000, 30000, 30000 }
        for i = 1, 5 do
            local answered = assert(in_flight.echo(target, i))
            answers[answered] = (answers[answered] or 0) + 1
        end
    end
    print(cjson.encode(answers))
]]

local EXPECTED = {
    ["h1 head: request read_timeout response"] = 3,
    ["h1 body: body read_timeout body"] = 3,
    ["h1 upload: request send_timeout send"] = 3,
    ["h2 head: request read_timeout response"] = 3,
    ["h2 body: body read_timeout body"] = 3,
    ["h2 upload: request send_timeout send"] = 3,
    ["pinged head: request closed response"] = 3,
    ["pinged body: body closed body"] = 3,
    ["pinged upload: request closed response"] = 3,
    ["pings"] = 9,
    ["handshake head: connect tls_timeout tls"] = 3,
    ["h1 idle head: request read_timeout response"] = 1,
    ["h2 idle head: request read_timeout response"] = 1,
    ["h1 new head: connect connect_timeout connect"] = 3,
    ["h2 new head: connect connect_timeout connect"] = 3,
    ["deadline: connect_timeout"] = 1,
}


describe("a network that is cut", function()
    for _, how in ipairs({ "link", "address" }) do
        it("ends every call in time and leaves nothing behind, by its " .. how, function()
            if reason then
                return pending(reason)
            end
            local run = gateway:begin(CUT, { vars = server.vars })
            hosts:far(function() server:await(30) end)
            hosts:cut(how)
            gateway:say("cut")
            gateway:await("ended")
            hosts:mend()
            gateway:say("mended")
            local seen, answers = run:wait(60):match("^(.-)\n(.-)\n$")
            seen = cjson.decode(seen)
            assert.same(EXPECTED, seen.counts)
            assert.is_true(seen.longest < 20, "a call took " .. seen.longest .. " s")
            -- A connection over HTTP/2 that has not missed a ping yet may be there still.
            answers = cjson.decode(answers)
            assert.equals(35, answers.new + answers.reused)
            assert.is_true(answers.new >= 5)
            tried = tried + seen.calls
            gateway:stop()
            assert.not_matches("%[alert%]", gateway:error_log())
        end)
    end
end)
