--- The table for people.
local cases = require("bench.cases")
local metrics = require("bench.metrics")
local targets = require("bench.targets")

local _M = {}

local BASELINES = {
    peer = "the peer as it is",
    memoised = "the peer with its certificate digest remembered (the harness patched a copy)",
    floor = "the same nginx location without the call",
}


local function short(ratio)
    return string.format(ratio < 10 and "%.2f" or "%.0f", ratio)
end


local function format_ratio(row)
    if not row.ratio then
        return "-"
    end
    local least, most = math.huge, 0
    for _, ratio in ipairs(row.ratios) do
        least, most = math.min(least, ratio), math.max(most, ratio)
    end
    return string.format("%s (%s–%s)", short(row.ratio), short(least), short(most))
end


-- Lua counts bytes, and "µ" has two.
local function pad(text, width, left)
    local _, characters = text:gsub("[^\128-\191]", "")
    local spaces = (" "):rep(width - characters)
    return left and spaces .. text or text .. spaces
end


local function row_line(metric, results, case, baselines)
    local first = results:row(case, metric, baselines[1])
    if not first then
        return nil
    end
    local cells = { "  " .. pad(metric.title, 30),
                    pad(string.format(metric.format, first.ours), 10, true) }
    for _, baseline in ipairs(baselines) do
        local row = results:row(case, metric, baseline)
        local other = row.other and string.format(metric.format, row.other) or "-"
        cells[#cells + 1] = pad(other, 12, true)
        cells[#cells + 1] = pad(format_ratio(row), 22, true)
    end
    return table.concat(cells)
end


local function table_lines(results, baselines, lines)
    local head = { pad("", 32), pad("ours", 10, true) }
    for _, baseline in ipairs(baselines) do
        head[#head + 1] = pad(baseline, 12, true)
        head[#head + 1] = pad("ratio", 22, true)
    end
    lines[#lines + 1] = table.concat(head)
    for _, case in ipairs(cases.list) do
        local of_case = {}
        for _, metric in ipairs(metrics.list) do
            of_case[#of_case + 1] = row_line(metric, results, case, baselines)
        end
        if #of_case > 0 then
            lines[#lines + 1] = string.format("\n%s, %d at a time%s", case.title, case.connections,
                                              case.note and " (" .. case.note .. ")" or "")
            lines[#lines + 1] = table.concat(of_case, "\n")
        end
    end
end


--- Writes the report.
---@param results Results
---@param about About
---@return string
function _M.render(results, about)
    local lines = {}
    for _, fact in ipairs(about.facts) do
        lines[#lines + 1] = pad(fact.name .. ":", 18) .. fact.value
    end
    lines[#lines + 1] = "\nThe upstream saw"
    for _, seen in ipairs(about.seen) do
        lines[#lines + 1] = pad("  " .. seen.by .. ", " .. seen.case .. ":", 24) .. seen.value
    end
    lines[#lines + 1] = ""
    for _, baseline in ipairs(about.baselines) do
        lines[#lines + 1] = pad(baseline .. ":", 14) .. BASELINES[baseline]
    end
    lines[#lines + 1] = pad("ratio:", 14)
        .. "ours divided by it: median of the rounds (least–most)\n"
    table_lines(results, about.baselines, lines)
    for _, failure in ipairs(results.failures) do
        lines[#lines + 1] = "\nFAILED  " .. failure
    end
    lines[#lines + 1] = "\nTargets"
    for _, verdict in ipairs(targets.judge(results)) do
        lines[#lines + 1] = targets.line(verdict)
    end
    return table.concat(lines, "\n") .. "\n"
end


return _M
