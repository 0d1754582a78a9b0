--- A soak from beginning to end: servers, load, faults, rest, verdict.
---
---     local result = runner.run{ seconds = 60, seed = 1 }
---     result.findings    nothing, if all is well
---     result.summary     a line: requests, faults, seed
local cjson = require("cjson")
local faults = require("soak.faults")
local fs = require("spec.support.fs")
local logs = require("soak.logs")
local memory = require("soak.memory")
local process = require("spec.support.process")
local random = require("soak.random")
local report = require("soak.report")
local servers_of = require("soak.servers")
local system = require("system")

local _M = {}

-- Calls at a time.
local CROWD = 32

-- Seconds.
local TOLD_EACH = 30

-- The part of the time that goes by before memory is looked at: caches fill, code is compiled.
local WARM_UP = 0.5

---@class SoakOptions
---@field seconds number of load
---@field seed integer
---@field sabotage string? a defect to find, see sabotage.lua
---@field say fun(text: string)? is told how it goes on

---@class SoakResult
---@field findings string[]
---@field summary string a line
---@field report string all that there is to say


local function state_of(servers)
    return cjson.decode(servers.driver:get("/state").body)
end


-- What is resident in the workers that are not reloaded, while calls go on.
local function tell_resident(servers, say)
    local parts = {}
    for i, pid in ipairs(servers.steady:worker_pids()) do
        local status = fs.read("/proc/" .. pid .. "/status") or ""
        parts[i] = string.format("%.1f", tonumber(status:match("RssAnon:%s*(%d+)") or 0) / 1024)
    end
    say("resident MiB, under load: " .. table.concat(parts, ", "))
end


-- Calls and faults for some seconds, and then until every call has its outcome.
local function load(servers, schedule, seconds, say)
    local started = system.monotime()
    local deadline, told = started + seconds, 0
    servers.driver:get("/begin?count=" .. CROWD)
    while system.monotime() < deadline do
        if system.monotime() - started >= told + TOLD_EACH then
            told = told + TOLD_EACH
            tell_resident(servers, say)
        end
        system.sleep(math.min(schedule:pause(), math.max(0, deadline - system.monotime())))
        schedule:inject()
    end
    servers.driver:get("/pause")
    say("waiting for the last calls")
    process.wait_until("every call has its outcome", function()
        system.sleep(0.05)
        return state_of(servers).active == 0
    end, 130)
end


-- What the workers of gateways have in them when they are at rest.
local function samples_of(...)
    local numbers, all = {}, {}
    for i, gateway in ipairs({ ... }) do
        numbers[i] = gateway:get("/rest").body
    end
    for i, gateway in ipairs({ ... }) do
        local answers
        process.wait_until("the workers of the gateway are at rest", function()
            system.sleep(0.1)
            answers = gateway:get("/answers?number=" .. numbers[i]).body
            return select(2, answers:gsub("\n", "")) == gateway.workers
        end, 60)
        local samples = {}
        for line in answers:gmatch("[^\n]+") do
            samples[#samples + 1] = cjson.decode(line)
        end
        table.sort(samples, function(a, b) return (a.pid or 0) < (b.pid or 0) end)
        all[i] = samples
    end
    return unpack(all)
end


-- Workers that a reload has replaced, and that have not ended although all calls have.
local function workers_left(gateway)
    local left = #gateway:worker_pids() - gateway.workers
    return left ~= 0 and { left .. " workers too many of the gateway that was reloaded" } or {}
end


local function add_all(list, more)
    for _, item in ipairs(more) do
        list[#list + 1] = item
    end
end


local function run(servers, options, say)
    local schedule = faults.schedule(servers, random.new(options.seed, -1))
    say(string.format("seed %d: warming up, with faults", options.seed))
    load(servers, schedule, options.seconds * WARM_UP, say)
    say("waiting for rest")
    local before = samples_of(servers.steady)
    say("memory is known; going on")
    load(servers, schedule, options.seconds * (1 - WARM_UP), say)
    say("waiting for rest")
    local after, others = samples_of(servers.steady, servers.reloaded)
    say("at rest; looking at what is left")

    local account = state_of(servers).account
    local findings = {}
    add_all(findings, account.findings)
    add_all(findings, report.gaps(account, schedule.counts, after))
    add_all(findings, memory.compare(before, after))
    add_all(findings, memory.unsettled(others))
    add_all(findings, workers_left(servers.reloaded))
    add_all(findings, logs.problems(servers))
    return {
        findings = findings,
        summary = report.summary(account, schedule.counts, options),
        report = report.render({ account = account, faults = schedule.counts, before = before,
                                 after = after, findings = findings, options = options }),
    }
end


---@param options SoakOptions
---@return SoakResult
function _M.run(options)
    local say = options.say or function() end
    local servers = servers_of.start(options)
    local ok, result = xpcall(run, debug.traceback, servers, options, say)
    if not ok then
        servers:kill()
        error(result, 0)
    end
    say("stopping")
    servers:stop()
    return result
end


return _M
