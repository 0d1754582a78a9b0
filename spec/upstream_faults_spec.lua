--- The upstream is killed, ended, reloaded and started again while calls are on their way.
local cjson = require("cjson")
local in_flight_server = require("spec.support.in_flight_server")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")
local socket = require("socket")

local server, gateway, told = nil, nil, {}


before_each(function()
    server = in_flight_server.start()
    gateway = nginx.gateway({ log_level = "warn" })
end)

after_each(function()
    gateway:stop()
    assert.not_matches("%[alert%]", gateway:error_log())
    server:stop()
end)

teardown(function() io.stdout:write(table.concat(told)) end)


local CHUNK = in_flight_server.CHUNK .. [[
    local function finish(load, files, result)
        load:stop()
        assert_settled(files)
        assert(#load.wrong == 0, load.wrong[1])
        result.good, result.failed = load.good, load.failed
        -- An empty table would be an array for cjson.
        result.failed[""] = 0
        print(cjson.encode(result))
    end

    -- No connection is left in the pool that was not closed by its server, so that there are as
    -- many files open before and after: two idle connections, one of each kind.
    local function idle_files()
        for _, target in ipairs(targets) do
            assert(in_flight.echo(target, 0))
        end
        return select(2, in_flight.files()) + 8
    end
]]


local function begin(chunk, vars)
    return gateway:begin(CHUNK .. chunk, { vars = server:vars_and(vars) })
end


local function nobody_listens()
    for _, name in ipairs({ "h1", "h2" }) do
        local connection = socket.tcp()
        local ok = connection:connect("127.0.0.1", server.vars[name])
        connection:close()
        if ok then
            return false
        end
    end
    return true
end


-- Failures by a part of what load tells of them.
local function count_failures(seen, pattern)
    local count = 0
    for what, number in pairs(seen.failed) do
        count = count + (what:find(pattern) and number or 0)
    end
    return count
end


-- The last one is a reset of a connection that was about to be accepted.
local CODES = { closed = true, connect_refused = true, connect_failed = true }


local function assert_codes(counts)
    for what in pairs(counts) do
        local code = what:match("^%w+ %w+: %S+ (%S+)") or what:match("^%S+ %u+ %S+ (%S+)")
        assert.is_true(what == "" or CODES[code], what)
    end
end


describe("an upstream that ends at once under load", function()
    local ROUNDS = 5

    for _, signal in ipairs({ "KILL", "TERM" }) do
        it("by " .. signal .. " fails what is in flight, and works when it is back", function()
            local run = begin([[
                local files, load = idle_files(), in_flight.load(targets, 4)
                local ended = {}
                for round = 1, ${rounds} do
                    load:enter("up", 3)
                    load.phase = "falling"
                    local calls = in_flight.begin(targets, 2)
                    await("down-" .. round)
                    for what, count in pairs((calls:wait())) do
                        ended[what] = (ended[what] or 0) + count
                    end
                    load:enter_failing("down" .. round)
                    load.phase = "starting"
                    say("felt-" .. round)
                    await("up-" .. round)
                end
                load:enter("up", 3)
                finish(load, files, { ended = ended })
            ]], { rounds = ROUNDS })
            for round = 1, ROUNDS do
                server:await(12)
                if signal == "KILL" then
                    server.server.process:kill()
                else
                    assert.equals(0, server.server.process:stop(signal))
                end
                process.wait_until("nobody listens", nobody_listens)
                gateway:say("down-" .. round)
                gateway:await("felt-" .. round)
                server.server:start_again()
                gateway:say("up-" .. round)
            end
            local seen = cjson.decode(run:wait(60))
            local ended = 0
            for _, count in pairs(seen.ended) do
                ended = ended + count
            end
            assert.equals(12 * ROUNDS, ended)
            assert_codes(seen.ended)
            assert_codes(seen.failed)
            -- On whatever connection.
            assert.equals(0, count_failures(seen, "^up%-up:"))
            told[#told + 1] = ("%s: %d times, %d calls in flight failed, of others %d failed and "
                .. "%d were right\n"):format(signal, ROUNDS, ended, count_failures(seen, "%w"),
                                             seen.good)
        end)
    end
end)


describe("an upstream that is reloaded under load", function()
    local ROUNDS = 20

    it("fails no request that may be sent again", function()
        local run = begin([[
            local files, load = idle_files(), in_flight.load(targets, 4)
            load:enter("begins", 3)
            for round = 1, ${rounds} do
                say("reload-" .. round)
                await("reloaded-" .. round)
                load:enter("reloaded " .. round, 2)
            end
            finish(load, files, { retries = http.stats().retries })
        ]], { rounds = ROUNDS })
        for round = 1, ROUNDS do
            gateway:await("reload-" .. round)
            server.server:reload()
            gateway:say("reloaded-" .. round)
        end
        local seen = cjson.decode(run:wait(60))
        assert.same({ [""] = 0 }, seen.failed)
        told[#told + 1] = ("HUP: %d times, %d calls were right, %d of them in a second attempt\n")
            :format(ROUNDS, seen.good, seen.retries)
    end)
end)


describe("an upstream that is told to quit, and started again, under load", function()
    local ROUNDS = 5

    it("answers what is in flight, and then fails what comes until it is back", function()
        local run = begin([[
            local files, load = idle_files(), in_flight.load(targets, 4)
            local ended = {}
            for round = 1, ${rounds} do
                load:enter("up", 3)
                load.phase = "quitting"
                local calls = in_flight.begin(targets, 3, { "gated", "gated_upload" }, round)
                await("quit-" .. round)
                load:enter_failing("down" .. round)
                say("felt-" .. round)
                for what, count in pairs((calls:wait())) do
                    ended[what] = (ended[what] or 0) + count
                end
                load.phase = "starting"
                await("up-" .. round)
            end
            load:enter("up", 3)
            finish(load, files, { ended = ended })
        ]], { rounds = ROUNDS })
        for round = 1, ROUNDS do
            server:await_gate(round, 12)
            server.server:quit()
            process.wait_until("nobody listens", nobody_listens)
            gateway:say("quit-" .. round)
            gateway:await("felt-" .. round)
            server:release(round)
            assert.equals(0, server.server.process:wait())
            server.server:start_again()
            gateway:say("up-" .. round)
        end
        local seen = cjson.decode(run:wait(60))
        assert.same({ ["h1 gated: done nil nil"] = 3 * ROUNDS,
                      ["h1 gated_upload: done nil nil"] = 3 * ROUNDS,
                      ["h2 gated: done nil nil"] = 3 * ROUNDS,
                      ["h2 gated_upload: done nil nil"] = 3 * ROUNDS }, seen.ended)
        assert_codes(seen.failed)
        assert.equals(0, count_failures(seen, "^up%-up:"))
        told[#told + 1] = ("QUIT: %d times, %d calls in flight answered, of others %d failed and "
            .. "%d were right\n"):format(ROUNDS, 12 * ROUNDS, count_failures(seen, "%w"),
                                         seen.good)
    end)
end)
