--- A gateway's workers end at once while calls are in flight: SIGKILL of one, and SIGTERM of all.
--- Which calls are in flight is decided by gates of the upstream.
local callers = require("spec.support.callers")
local groups = require("spec.support.groups")
local in_flight_server = require("spec.support.in_flight_server")
local lfs = require("lfs")
local posix = require("spec.support.posix")
local process = require("spec.support.process")

local ROUNDS = 20
-- A line of nginx's log.
local KILLED = "worker process %d+ exited on signal 9"

local server, told = nil, {}


before_each(function() server = in_flight_server.start() end)
after_each(function() server:stop() end)

teardown(function() io.stdout:write(table.concat(told)) end)


local function worker_of(gateway, id)
    local pid = gateway:error_log():match("(%d+)#%d+:[^\n]*makes call " .. id .. "%.")
    return tonumber(pid)
end


local function files_in(dir)
    local names = {}
    for name in lfs.dir(dir) do
        names[#names + 1] = name
    end
    table.sort(names)
    return names
end


describe("a worker that is killed under load", function()
    it("takes its own calls with it, and its successor works", function()
        local gateway = callers.gateway(server, 3)
        finally(function() gateway.process:kill() end)
        callers.send(gateway, "/taken", "none"):receive()
        local files, before = callers.files_of(gateway:pid()), files_in(gateway.dir)
        local answered, cut, quick = 0, 0, 0
        for round = 1, ROUNDS do
            local first = callers.last_id() + 1
            local sent = callers.send(gateway, "/gated", round)
            server:await_gate(round, 8)
            local victim = worker_of(gateway, first)
            posix.kill(victim, "KILL")
            process.wait_until("a successor is there", function()
                return not groups.stat(victim) and #gateway:worker_pids() == 3
            end)
            quick = quick + callers.send(gateway, "/taken", "none"):receive()
            server:release(round)
            local more_answered, more_cut = sent:receive_some(function(id)
                return worker_of(gateway, id) ~= victim
            end)
            answered, cut = answered + more_answered, cut + more_cut
        end
        assert.equals(8 * ROUNDS, answered + cut)
        assert.is_true(answered > 0 and cut >= ROUNDS)
        assert.equals(8 * ROUNDS, quick)
        local counts = server:served()
        for id = 1, callers.last_id() do
            assert.is_true((counts[tostring(id)] or 0) <= 1)
        end
        callers.await_files(gateway:pid(), files)
        assert.same(before, files_in(gateway.dir))
        gateway:stop()
        callers.await_disconnected(server)
        callers.assert_clean(gateway, KILLED)
        table.insert(told, ("workers killed: %d, with %d calls; answered by others meanwhile: %d, "
            .. "and after it: %d\n"):format(ROUNDS, cut, answered, quick))
    end)
end)


describe("a gateway that is told to terminate under load", function()
    it("ends at once, and leaves nothing behind", function()
        for round = 1, ROUNDS do
            local gateway = callers.gateway(server, 2)
            callers.send(gateway, "/taken", "none"):receive()
            local sent = callers.send(gateway, "/gated", round)
            server:await_gate(round, 8)
            assert.equals(0, gateway.process:stop("TERM"))
            sent:receive_some(function() return false end)
            server:release(round)
            callers.await_disconnected(server)
            -- The master kills who has not ended after a second, which on a busy machine may come
            -- before its turn. spec/shutdown_spec.lua looks how long it takes.
            callers.assert_clean(gateway, KILLED)
        end
        table.insert(told, ("gateways terminated: %d, with %d calls\n"):format(ROUNDS, 8 * ROUNDS))
    end)
end)
