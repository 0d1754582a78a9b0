--- A minute of everything at a time, with faults: `make soak` in short. soak/ has what it does.
local accounts = require("soak.accounts")
local bodies = require("soak.body")
local memory = require("soak.memory")
local report = require("soak.report")
local runner = require("soak.runner")

local SECONDS = 60


describe("what a soak looks at", function()
    local KIB, MIB = 1024, 1024 * 1024
    -- Of a worker, in the minute of the spec.
    local CALLS = 2000

    local function sample(more)
        local given = { pid = 1, calls = 0, at_rest = true, resident = 20 * MIB, native = 4 * MIB,
                        lua = 2 * MIB, descriptors = 13, stats = {} }
        for name, value in pairs(more or {}) do
            given[name] = value
        end
        return given
    end

    local function found(more)
        more.calls = CALLS
        return memory.compare({ sample() }, { sample(more) })
    end

    it("tells a KiB that each call leaves from what comes and goes", function()
        assert.same({}, found({ resident = 25 * MIB, native = 4.5 * MIB, lua = 2.4 * MIB }))
        for name, first in pairs({ native = 4 * MIB, lua = 2 * MIB }) do
            local findings = found({ [name] = first + CALLS * KIB })
            assert.equals(1, #findings)
            assert.matches("kept memory: " .. name .. " grew by 2000 KiB", findings[1], 1, true)
        end
    end)

    it("tells a descriptor that is left, and a connection", function()
        assert.matches("13, and now 14", found({ descriptors = 14 })[1], 1, true)
        local stats = { connections_open = 1, connections_idle = 0, requests_in_flight = 0,
                        operations_in_flight = 0,
                        destinations = { ["https://a:1"] = { connections_open = 1 } } }
        assert.matches("open 1 (1 to https://a:1)",
                       found({ at_rest = false, timers = 1, stats = stats })[1], 1, true)
    end)

    it("tells a call that has no outcome", function()
        local account = accounts.new()
        local order = { id = 1, title = "uri", target = { name = "h1" }, who = { name = "a" } }
        account:asked(order)
        account:asked(order)
        account:right(order, 1, "")
        local findings = report.gaps(account:table(), {}, { { stats = {
            retries = 1, handshakes_resumed = 1, connections_reused = 1,
        } } })
        assert.equals("lost: 2 calls of uri, and 1 outcomes", findings[#findings])
    end)

    it("tells the bodies of two requests apart, whatever their part", function()
        local one, other = bodies.bytes(1000, 4096), bodies.bytes(1001, 4096)
        assert.equals(one, bodies.bytes(1000, 4096))
        for first = 1, 4096 - 64, 64 do
            local part = one:sub(first, first + 15)
            assert.is_nil(other:find(part, 1, true))
            assert.equals(first, (one:find(part, 1, true)))
        end
        assert.equals("4000 bytes in place of 4096", bodies.difference(one, one:sub(1, 4000)))
        assert.equals("byte 3 of 4 is another one", bodies.difference("abcd", "abXd"))
    end)
end)


describe("a minute of mixed load with faults", function()
    it("gives each request its answer or a documented error, and leaves nothing", function()
        local result = runner.run({ seconds = SECONDS, seed = os.time() % 1000000 })
        io.stdout:write(result.summary, "\n")
        assert.same({}, result.findings, result.report)
    end)
end)
