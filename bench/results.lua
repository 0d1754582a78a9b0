--- Measurements of all rounds, and what they come to.
local cases = require("bench.cases")
local metrics = require("bench.metrics")
local statistics = require("bench.statistics")

local _M = {}

---@class Results
---@field numbers table<string, number[]> by case, library and metric; one of each round
---@field failures string[]
local Results = {}
Results.__index = Results

---@class Row one case, one metric, one baseline
---@field case Case
---@field metric Metric
---@field baseline "peer"|"memoised"|"floor"
---@field ours number median of the rounds, in the unit of the metric
---@field other number? the same for the baseline
---@field ratio number? median of the ratios of the rounds
---@field ratios number[]


---@return Results
function _M.new()
    return setmetatable({ numbers = {}, failures = {} }, Results)
end


local function key(case, by, metric)
    return case.name .. " " .. by .. " " .. metric.name
end


--- Adds a measurement.
---@param case Case
---@param by string
---@param round integer
---@param measurement Measurement
function Results:add(case, by, round, measurement)
    for name, number in pairs(measurement) do
        local numbers_key = key(case, by, metrics.by_name[name])
        self.numbers[numbers_key] = self.numbers[numbers_key] or {}
        self.numbers[numbers_key][round] = number
    end
end


--- Notes that a measurement came to nothing.
---@param case Case
---@param by string
---@param message string
function Results:add_failure(case, by, message)
    self.failures[#self.failures + 1] = string.format("%s, %s: %s", case.name, by, message)
end


local function all(numbers)
    local list = {}
    for _, number in pairs(numbers or {}) do
        list[#list + 1] = number
    end
    return list
end


--- Figures of a library in all rounds.
---@param case Case
---@param by string
---@param metric Metric
---@return number[] in the unit of the metric
function Results:of(case, by, metric)
    local list = all(self.numbers[key(case, by, metric)])
    for i, number in ipairs(list) do
        list[i] = number * metric.scale
    end
    return list
end


--- What a case comes to against a baseline.
---@param case Case
---@param metric Metric
---@param baseline string
---@return Row? row nil if ours was not measured
function Results:row(case, metric, baseline)
    local ours = self:of(case, "ours", metric)
    if #ours == 0 then
        return nil
    end
    local ratios = statistics.ratios(self.numbers[key(case, "ours", metric)],
                                     self.numbers[key(case, baseline, metric)] or {},
                                     metric.noise and metric.noise / metric.scale)
    return {
        case = case, metric = metric, baseline = baseline, ours = statistics.median(ours),
        other = statistics.median(self:of(case, baseline, metric)),
        ratio = statistics.median(ratios), ratios = ratios,
    }
end


--- Every row there is, in the order of the cases.
---@param baseline string
---@return Row[]
function Results:rows(baseline)
    local rows = {}
    for _, case in ipairs(cases.list) do
        for _, metric in ipairs(metrics.list) do
            rows[#rows + 1] = self:row(case, metric, baseline)
        end
    end
    return rows
end


return _M
