--- A hundred reloads and a hundred quits of a gateway that has calls in flight. Which these are is
--- decided by gates of the upstream, and not by time.
local callers = require("spec.support.callers")
local groups = require("spec.support.groups")
local in_flight_server = require("spec.support.in_flight_server")
local process = require("spec.support.process")

local ROUNDS = 100
-- Gateways that quit at the same time.
local AT_ONCE = 4

local server, told = nil, {}


before_each(function() server = in_flight_server.start() end)
after_each(function() server:stop() end)

teardown(function() io.stdout:write(table.concat(told)) end)


describe("a hundred reloads under load", function()
    it("lose no response, and leave nothing behind", function()
        local gateway = callers.gateway(server, 2)
        finally(function() gateway.process:kill() end)
        local files, first = callers.files_of(gateway:pid()), callers.last_id() + 1
        local answers, waiting = 0, {}
        for round = 1, ROUNDS do
            table.insert(waiting, { gate = round, sent = callers.send(gateway, "/gated", round) })
            server:await_gate(round, 8)
            local quick = callers.send(gateway, "/taken", "none")
            gateway:reload()
            answers = answers + quick:receive()
            answers = answers + callers.send(gateway, "/taken", "none"):receive()
            -- Old workers of two generations have calls in flight.
            while #waiting > (round < ROUNDS and 2 or 0) do
                local oldest = table.remove(waiting, 1)
                server:release(oldest.gate)
                answers = answers + oldest.sent:receive()
            end
        end
        process.wait_until("the old workers are gone", function()
            return #groups.members(gateway:pid()) == 3
        end, 30)
        assert.equals(24 * ROUNDS, answers)
        callers.assert_served_once(server, first, callers.last_id())
        callers.await_files(gateway:pid(), files)
        gateway:stop()
        callers.await_disconnected(server)
        callers.assert_clean(gateway)
        table.insert(told, ("reloads: %d, calls answered once each: %d\n"):format(ROUNDS, answers))
    end)
end)


describe("a hundred quits under load", function()
    it("lose no response, and leave nothing behind", function()
        local first, answers, quits = callers.last_id() + 1, 0, 0
        for round = 1, ROUNDS / AT_ONCE do
            local gateways, sent = {}, {}
            for i = 1, AT_ONCE do
                gateways[i] = callers.gateway(server, 1)
                sent[i] = callers.send(gateways[i], "/taken", "none")
            end
            for i, gateway in ipairs(gateways) do
                answers = answers + sent[i]:receive()
                sent[i] = callers.send(gateway, "/gated", round)
            end
            server:await_gate(round, 8 * AT_ONCE)
            for _, gateway in ipairs(gateways) do
                gateway:quit()
            end
            for _, gateway in ipairs(gateways) do
                gateway:wait_for_log("gracefully shutting down")
            end
            server:release(round)
            for i, gateway in ipairs(gateways) do
                answers = answers + sent[i]:receive()
                assert.equals(0, gateway.process:wait())
                assert.same({}, groups.members(gateway:pid()))
                callers.assert_clean(gateway)
                quits = quits + 1
            end
        end
        assert.equals(16 * ROUNDS, answers)
        callers.assert_served_once(server, first, callers.last_id())
        callers.await_disconnected(server)
        table.insert(told, ("quits: %d, calls answered once each: %d\n"):format(quits, answers))
    end)
end)
