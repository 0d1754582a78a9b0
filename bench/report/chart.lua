--- The ratios as an SVG: a bar for each case and metric, to the left or right of 1 on a scale that
--- is logarithmic, so that half as much and twice as much are as long.
local cases = require("bench.cases")
local metrics = require("bench.metrics")

local _M = {}

local COLUMNS = { "rate", "cpu", "main_cpu", "p99" }
local LABEL_WIDTH, COLUMN_WIDTH, ROW_HEIGHT, TOP = 370, 260, 30, 96
-- Of a column, for the bars; the rest is for numbers.
local PLOT_WIDTH = 160
local LEAST, MOST = 1 / 16, 8
local TICKS = { 1 / 16, 1 / 4, 1, 4 }
local BETTER, WORSE, INK, FAINT = "#2f855a", "#c05621", "#1a202c", "#cbd5e0"

local HEAD = [[
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">
<rect width="100%%" height="100%%" fill="#ffffff"/>
<text x="16" y="28" font-size="17" fill="%s">lua-resty-mtls divided by %s</text>
<text x="16" y="48" fill="#4a5568">%s</text>
]]

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }


local function escape(text)
    return (text:gsub("[&<>]", ESCAPES))
end


local function element(format, ...)
    return string.format(format, ...) .. "\n"
end


local function text(x, y, content, color, anchor)
    return element('<text x="%.1f" y="%.1f" fill="%s" text-anchor="%s">%s</text>', x, y, color,
                   anchor or "start", escape(content))
end


local function vertical(x, y1, y2, color, width)
    return element('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%g"/>',
                   x, y1, x, y2, color, width)
end


local function left_of(column)
    return LABEL_WIDTH + (column - 1) * COLUMN_WIDTH
end


local function position(column, ratio)
    local share = math.log(math.min(MOST, math.max(LEAST, ratio)) / LEAST)
        / math.log(MOST / LEAST)
    return left_of(column) + share * PLOT_WIDTH
end


local function axis(column, bottom)
    local metric = metrics.by_name[COLUMNS[column]]
    -- Ratios have no unit.
    local title = metric.title:gsub(", [^,]*s$", "")
    local parts = { text(left_of(column), TOP - 26, title, INK),
                    text(left_of(column), TOP - 10, metric.better .. " is better", "#718096") }
    for _, tick in ipairs(TICKS) do
        local x = position(column, tick)
        parts[#parts + 1] = vertical(x, TOP, bottom, tick == 1 and INK or FAINT, 1)
        parts[#parts + 1] = text(x, bottom + 16,
                                 tick < 1 and "1/" .. 1 / tick or tostring(tick), "#718096",
                                 "middle")
    end
    return table.concat(parts)
end


local function bar(column, y, row)
    local is_better = (row.ratio > 1) == (row.metric.better == "higher")
    local from, to = position(column, 1), position(column, row.ratio)
    return element('<rect x="%.1f" y="%.1f" width="%.1f" height="16" fill="%s"/>',
                   math.min(from, to), y, math.max(1, math.abs(to - from)),
                   is_better and BETTER or WORSE)
end


local function cell(results, about, case, column, y)
    local metric = metrics.by_name[COLUMNS[column]]
    local parts, numbers = {}, {}
    for i, baseline in ipairs(about.baselines) do
        local row = results:row(case, metric, baseline)
        if row and row.ratio then
            numbers[#numbers + 1] = string.format(row.ratio < 10 and "%.2f" or "%.0f", row.ratio)
            parts[#parts + 1] = i == 1 and bar(column, y, row)
                or vertical(position(column, row.ratio), y - 2, y + 18, INK, 2)
        end
    end
    parts[#parts + 1] = text(left_of(column) + PLOT_WIDTH + 8, y + 13,
                             table.concat(numbers, " / "), INK)
    return table.concat(parts)
end


local function case_row(results, about, case, y)
    local label = string.format("%s, %d at a time", case.title, case.connections)
    local parts = { text(16, y + 13, label, INK) }
    for column = 1, #COLUMNS do
        parts[#parts + 1] = cell(results, about, case, column, y)
    end
    return table.concat(parts)
end


--- Draws.
---@param results Results
---@param about About
---@return string
function _M.render(results, about)
    local measured = {}
    for _, case in ipairs(cases.list) do
        if results:row(case, metrics.by_name.p99, about.baselines[1]) then
            measured[#measured + 1] = case
        end
    end

    local bottom = TOP + #measured * ROW_HEIGHT + 4
    local note = about.baselines[2]
        and "bars and first numbers: the peer as it is; strokes and second ones: the peer with its "
            .. "certificate digest remembered"
        or "median of the rounds"
    local parts = {
        element(HEAD, left_of(#COLUMNS + 1), bottom + 30, INK,
                about.baselines[1] == "peer" and "lua-resty-http"
                or "the same location without the call", note),
    }
    for column = 1, #COLUMNS do
        parts[#parts + 1] = axis(column, bottom)
    end
    for i, case in ipairs(measured) do
        parts[#parts + 1] = case_row(results, about, case, TOP + (i - 1) * ROW_HEIGHT + 6)
    end
    return table.concat(parts) .. "</svg>\n"
end


return _M
