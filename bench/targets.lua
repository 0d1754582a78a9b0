--- Whether the targets of cases.lua were met: beside the stronger baseline, where there are two.
local cases = require("bench.cases")
local metrics = require("bench.metrics")

local _M = {}

---@class Verdict
---@field case Case
---@field target Target
---@field metric Metric
---@field row Row of the baseline that decides
---@field met boolean
---@field as_is Row? that of the peer as it is, where it does not decide


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
            local as_is = results:row(case, metric, "peer")
            local memoised = not target.value and results:row(case, metric, "memoised")
            local is_stronger = memoised and memoised.ratio
            local row = is_stronger and memoised or as_is
            if row and (row.ratio or target.value) then
                verdicts[#verdicts + 1] = {
                    case = case, target = target, metric = metric, row = row,
                    met = is_met(target, metric, row), as_is = is_stronger and as_is or nil,
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
    return string.format("%s %.2f of the %s's, is %.2f",
        metric.better == "higher" and "at least" or "at most", target.ratio,
        verdict.as_is and "memoised peer" or "peer", verdict.row.ratio)
end


--- One line.
---@param verdict Verdict
---@return string
function _M.line(verdict)
    local as_is = verdict.as_is
    return string.format("%-6s  %s, %d at a time, %s: %s%s", verdict.met and "met" or "MISSED",
        verdict.case.title, verdict.case.connections, verdict.metric.title, format_target(verdict),
        as_is and as_is.ratio and string.format(" (%.2f of the peer as it is)", as_is.ratio) or "")
end


return _M
