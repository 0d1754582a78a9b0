--- Whether the targets of cases.lua were met.
local cases = require("bench.cases")
local metrics = require("bench.metrics")

local _M = {}

---@class Verdict
---@field case Case
---@field target Target
---@field metric Metric
---@field row Row
---@field met boolean
---@field memoised Row? the same against the stronger baseline, if it was measured
---@field memoised_met boolean?


local function is_met(target, metric, row)
    if target.value then
        return row.ours <= target.value * metric.scale
    elseif metric.better == "higher" then
        return row.ratio >= target.ratio
    end
    return row.ratio <= target.ratio
end


--- Judges. Targets of what was not measured are left out.
---@param results Results
---@return Verdict[]
function _M.judge(results)
    local verdicts = {}
    for _, case in ipairs(cases.list) do
        for _, target in ipairs(case.targets) do
            local metric = metrics.by_name[target.metric]
            local row = results:row(case, metric, "peer")
            if row and (row.ratio or target.value) then
                local memoised = not target.value and results:row(case, metric, "memoised")
                memoised = memoised and memoised.ratio and memoised or nil
                verdicts[#verdicts + 1] = {
                    case = case, target = target, metric = metric, row = row,
                    met = is_met(target, metric, row), memoised = memoised,
                    memoised_met = memoised and is_met(target, metric, memoised),
                }
            end
        end
    end
    return verdicts
end


local function format_target(verdict)
    local target, metric = verdict.target, verdict.metric
    if target.value then
        return string.format("at most " .. metric.format .. ", is " .. metric.format,
                             target.value * metric.scale, verdict.row.ours)
    end
    return string.format("%s %.2f of the peer's, is %.2f",
        metric.better == "higher" and "at least" or "at most", target.ratio, verdict.row.ratio)
end


--- One line.
---@param verdict Verdict
---@return string
function _M.line(verdict)
    local memoised = verdict.memoised
    return string.format("%-6s  %s, %d at a time, %s: %s%s", verdict.met and "met" or "MISSED",
        verdict.case.title, verdict.case.connections, verdict.metric.title, format_target(verdict),
        memoised and string.format(" (%.2f of the memoised one: %s)", memoised.ratio,
                                   verdict.memoised_met and "met" or "missed") or "")
end


return _M
