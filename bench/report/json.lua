--- The same for programs: one line for each row.
local cjson = require("cjson")
local targets = require("bench.targets")

local _M = {}


-- cjson puts names in any order, and writes digits that nothing measured.
local function number(value)
    return value and string.format(value < 1000 and "%.4g" or "%.0f", value) or "null"
end


local function numbers(list)
    local texts = {}
    for i, value in ipairs(list) do
        texts[i] = number(value)
    end
    return "[" .. table.concat(texts, ", ") .. "]"
end


local function object(fields)
    local texts = {}
    for i, field in ipairs(fields) do
        texts[i] = string.format("%s: %s", cjson.encode(field[1]), (field[2]))
    end
    return "{" .. table.concat(texts, ", ") .. "}"
end


local function row_fields(row)
    return {
        { "case", cjson.encode(row.case.name) }, { "concurrency", number(row.case.connections) },
        { "metric", cjson.encode(row.metric.name) }, { "title", cjson.encode(row.metric.title) },
        { "baseline", cjson.encode(row.baseline) }, { "ours", number(row.ours) },
        { "peer", number(row.other) }, { "ratio", number(row.ratio) },
        { "ratios", numbers(row.ratios) },
    }
end


local function verdict_fields(verdict)
    local target, metric = verdict.target, verdict.metric
    local fields = {
        { "case", cjson.encode(verdict.case.name) }, { "metric", cjson.encode(metric.name) },
        { "ratio_wanted", number(target.ratio) },
        { "value_wanted", number(target.value and target.value * metric.scale) },
        { "ratio", number(verdict.row.ratio) }, { "ours", number(verdict.row.ours) },
        { "baseline", cjson.encode(verdict.row.baseline) }, { "met", tostring(verdict.met) },
    }
    if verdict.as_is then
        fields[#fields + 1] = { "ratio_to_peer", number(verdict.as_is.ratio) }
    end
    return fields
end


local function lines(list)
    if #list == 0 then
        return "[]"
    end
    return "[\n    " .. table.concat(list, ",\n    ") .. "\n  ]"
end


--- Writes the report.
---@param results Results
---@param about About
---@return string
function _M.render(results, about)
    local facts, seen, rows, verdicts, failures = {}, {}, {}, {}, {}
    for _, fact in ipairs(about.facts) do
        facts[#facts + 1] = { fact.name, cjson.encode(fact.value) }
    end
    for _, what in ipairs(about.seen) do
        seen[#seen + 1] = object({ { "by", cjson.encode(what.by) },
                                   { "case", cjson.encode(what.case) },
                                   { "upstream_saw", cjson.encode(what.value) } })
    end
    for _, baseline in ipairs(about.baselines) do
        for _, row in ipairs(results:rows(baseline)) do
            if row.other then
                rows[#rows + 1] = object(row_fields(row))
            end
        end
    end
    for _, verdict in ipairs(targets.judge(results)) do
        verdicts[#verdicts + 1] = object(verdict_fields(verdict))
    end
    for _, failure in ipairs(results.failures) do
        failures[#failures + 1] = cjson.encode(failure)
    end
    return string.format(
        '{\n  "about": %s,\n  "seen": %s,\n  "rows": %s,\n  "targets": %s,\n  "failures": %s\n}\n',
        object(facts), lines(seen), lines(rows), lines(verdicts), lines(failures))
end


return _M
