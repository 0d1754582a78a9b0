--- One measurement: one case, one library, one round.
local load = require("bench.load")
local process = require("spec.support.process")
local servers = require("bench.servers")
local usage = require("bench.usage")

local _M = {}

---@class Settings
---@field seconds integer of load
---@field large_seconds integer the same where bodies are large
---@field warm_up number seconds before

---@alias Measurement table<string, number> by the names in metrics.lua, in seconds and bytes


local function url(gateway, case, by)
    return string.format("http://127.0.0.1:%d/call?case=%s&by=%s", gateway.port, case.name, by)
end


local function state(gateway, forget)
    local values = {}
    local body = gateway:get("/state" .. (forget and "?forget=1" or "")).body
    for name, value in body:gmatch("(%w+)=(%S+)") do
        values[name] = tonumber(value)
    end
    return values
end


local function wait_until_quiet(gateway)
    return process.wait_until("all calls have ended", function()
        local now = state(gateway)
        return now.active == 0 and now
    end, 60)
end


-- The end of error.log, for messages.
local function last_words(gateway)
    return "\n" .. gateway:error_log():sub(-700):gsub("^[^\n]*\n", "")
end


local function check(gateway, calls, figures)
    if calls.failures > 0 or (figures and figures.errors > 0) or calls.calls == 0 then
        error(string.format("%d of %d calls failed, and %d of wrk's%s", calls.failures, calls.calls,
                            figures and figures.errors or 0, last_words(gateway)), 0)
    end
end


-- Large bodies would leave memory behind that the measurement is then not charged for.
local function warm_up(gateway, case, by, seconds)
    local path = string.format("/warm-up?case=%s&by=%s&seconds=%g",
        case.is_large and "keepalive-1" or case.name, by, seconds)
    local response = gateway:get(path, { timeout = seconds + 30 })
    if response.status ~= 200 then
        error("warming up failed" .. last_words(gateway), 0)
    end
end


local function measure_calls(gateway, worker, case, by, seconds)
    local idle = usage.reset_peak(worker)
    state(gateway, true)
    local before = usage.cpu(worker)
    local figures = load.run(url(gateway, case, by), case.connections, seconds)
    -- Calls that wrk did not wait for count like all others.
    local calls = wait_until_quiet(gateway)
    local after = usage.cpu(worker)
    check(gateway, calls, figures)
    return {
        rate = calls.calls / (calls.last - calls.first),
        p50 = figures.p50, p99 = figures.p99, worst = figures.worst,
        cpu = (after.all - before.all) / calls.calls,
        main_cpu = (after.main - before.main) / calls.calls,
        memory = math.max(0, usage.peak(worker) - idle),
    }
end


local function probe_beside(gateway, case, by, seconds)
    if by == "floor" then
        local figures = load.probe(gateway.port, "/other", seconds)
        return { p50 = figures.p50, p99 = figures.p99, worst = figures.worst }
    end

    state(gateway, true)
    local wrk = load.start(url(gateway, case, by), case.connections, seconds + 60)
    process.wait_until("calls have begun", function()
        return state(gateway).active == case.connections
    end)
    local figures = load.probe(gateway.port, "/other", seconds)
    local calls = state(gateway)
    wrk:stop("INT")
    wait_until_quiet(gateway)
    check(gateway, calls)
    return {
        p50 = figures.p50, p99 = figures.p99, worst = figures.worst,
        load = calls.calls / (calls.last - calls.first),
    }
end


--- Measures.
---@param gateway Nginx
---@param case Case
---@param by "ours"|"peer"|"memoised"|"floor"
---@param settings Settings
---@return Measurement
function _M.run(gateway, case, by, settings)
    local worker = servers.renew_worker(gateway)
    warm_up(gateway, case, by, settings.warm_up)
    local seconds = case.is_large and settings.large_seconds or settings.seconds
    if case.probed then
        return probe_beside(gateway, case, by, seconds)
    end
    return measure_calls(gateway, worker, case, by, seconds)
end


return _M
