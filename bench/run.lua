--- `make bench`: this library beside lua-resty-http, on two real nginx.
---
---     wrk ──http──▶ gateway (one worker) ──mTLS──▶ upstream (ssl_verify_client on)
---
--- docs/performance.md says what is measured and how. The servers listen on free loopback ports and
--- are stopped at the end.
local cases = require("bench.cases")
local chart = require("bench.report.chart")
local fs = require("spec.support.fs")
local json = require("bench.report.json")
local machine = require("bench.machine")
local measure = require("bench.measure")
local option_parser = require("bench.options")
local peers = require("bench.peer")
local process = require("spec.support.process")
local result_tables = require("bench.results")
local servers = require("bench.servers")
local text = require("bench.report.text")

---@class About
---@field facts { name: string, value: string }[]
---@field seen { by: string, case: string, value: string }[] what the upstream sees of each
---@field baselines string[] what ours is compared with, first of all that of the targets


local function say(...)
    io.write(string.format(...), "\n")
    io.flush()
end


-- A library that connects without the certificate, or resumes where it should not, would be
-- measured doing something else.
local function look(gateway, case_name, by)
    local response = gateway:get("/seen?case=" .. case_name .. "&by=" .. by)
    if response.status ~= 200 or not response.body:find(", SUCCESS CN=client", 1, true) then
        error(string.format("%s cannot make the calls of %s: %s", by, case_name,
                            gateway:error_log():sub(-2000)), 0)
    end
    local is_resumed = response.body:find("reused: r", 1, true) ~= nil
    local ought_to_be = cases.by_name[case_name].connection == "resumed"
    if is_resumed ~= ought_to_be and (by == "ours" or is_resumed) then
        error(string.format("%s, %s: %s", by, case_name, response.body), 0)
    end
    return { by = by, case = case_name, value = response.body }
end


local function look_at_all(gateway, names)
    local seen = {}
    for _, name in ipairs(names) do
        for _, case_name in ipairs({ "new-ecdsa", "new-rsa", "resumed" }) do
            seen[#seen + 1] = name ~= "floor" and look(gateway, case_name, name) or nil
        end
    end
    return seen
end


local function selected(word)
    local list = {}
    for _, case in ipairs(cases.list) do
        if case.name:find(word, 1, true) then
            list[#list + 1] = case
        end
    end
    return list
end


-- Who takes part in a case, in an order that changes with the round.
local function in_turn(case, names, round)
    local list = {}
    for i = 0, #names - 1 do
        local name = names[(i + round) % #names + 1]
        -- A digest is lost in 64 MiB.
        if not (name == "memoised" and case.is_large) then
            list[#list + 1] = name
        end
    end
    return list
end


local function measure_all(gateway, names, options)
    local results = result_tables.new()
    for _, case in ipairs(selected(options.only)) do
        io.write(string.format("%-20s", case.name))
        for round = 1, options.rounds do
            for _, by in ipairs(in_turn(case, names, round)) do
                local ok, measurement = pcall(measure.run, gateway, case, by, options)
                if ok then
                    results:add(case, by, round, measurement)
                else
                    results:add_failure(case, by, measurement)
                end
                io.write(ok and "." or "!")
                io.flush()
            end
        end
        io.write("\n")
    end
    return results
end


local function report(results, about, folder)
    local rendered = text.render(results, about)
    process.check({ "mkdir", "-p", folder })
    fs.write(folder .. "/latest.txt", rendered)
    fs.write(folder .. "/latest.json", json.render(results, about))
    fs.write(folder .. "/latest.svg", chart.render(results, about))
    say("\nThis goes into %s: latest.txt, latest.json, latest.svg\n\n%s", folder, rendered)
end


local function main()
    local options = option_parser.parse(arg)
    local peer = options.peer and peers.find(options.peer, options.peer_deps)
    local about = { facts = machine.describe(), baselines = { "floor" } }
    if peer then
        about.baselines = peer.memoised and { "peer", "memoised" } or { "peer" }
        for _, fact in ipairs(peer.facts) do
            table.insert(about.facts, fact)
        end
    end
    table.insert(about.facts, {
        name = "rounds", value = string.format("%d of %d s (64 MiB: %d s), %s", options.rounds,
            options.seconds, options.large_seconds, os.date("!%Y-%m-%d")),
    })

    local upstream = servers.upstream()
    local gateway = servers.gateway(upstream, peer)
    local names = { "ours", unpack(about.baselines) }
    about.seen = look_at_all(gateway, names)
    local results = measure_all(gateway, names, options)
    report(results, about, options.results)
    gateway:stop()
    upstream:stop()
    return #results.failures == 0
end


-- The processes that were started end with this one, also after an error.
local ok, outcome = xpcall(main, function(err)
    return type(err) == "string" and err or debug.traceback(err)
end)
if not ok then
    io.stderr:write("\nThe benchmark failed: ", tostring(outcome), "\n")
end
os.exit(ok and outcome and 0 or 1, true)
