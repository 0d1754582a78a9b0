--- What there is to say of a soak.
local hostile = require("soak.hostile")
local identities = require("soak.identities")
local targets = require("soak.targets")
local ways = require("soak.ways")

local _M = {}

local MIB = 1024 * 1024


local function sorted(names)
    local list = {}
    for name in pairs(names) do
        list[#list + 1] = name
    end
    table.sort(list)
    return list
end


local function sum(numbers)
    local total = 0
    for _, number in pairs(numbers) do
        total = total + number
    end
    return total
end


-- What has to have come up, for a soak that says anything: ways and peers, as they have to end;
-- servers, identities, and what the library does by itself.
local function missing(account, counts, samples)
    local list = {}
    local function demand(what, has)
        list[#list + 1] = not has and "never seen: " .. what or nil
    end
    for _, group in ipairs({ ways.list, hostile.list }) do
        for _, way in ipairs(group) do
            local title = way.title or "peer " .. way.name
            local row = account.rows[title]
            demand(title, row and (way.fails and sum(row.expected) or way.is_abandoned
                                   and row.abandoned or row.right) > 0)
        end
    end
    for _, target in ipairs(targets.list) do
        demand("target " .. target.name, account.targets[target.name])
    end
    for _, who in ipairs(identities.list) do
        for subject in pairs(who.subjects) do
            demand("identity " .. subject, account.subjects[subject])
        end
    end
    for name, count in pairs(counts) do
        demand("fault " .. name, count > 0)
    end
    for _, name in ipairs({ "retries", "handshakes_resumed", "connections_reused" }) do
        demand(name, samples[1].stats[name] > 0)
    end
    return list
end


local function totals_of(account)
    local total = { asked = 0, right = 0, requests = 0, expected = 0, abandoned = 0, findings = 0 }
    for _, row in pairs(account.rows) do
        for name, value in pairs(total) do
            total[name] = value + (name == "expected" and sum(row.expected) or row[name])
        end
    end
    return total
end


--- Calls that were asked and have no outcome, and what never came up.
---@param account table
---@param faults table<string, integer>
---@param samples table[] of workers
---@return string[] findings
function _M.gaps(account, faults, samples)
    local findings = missing(account, faults, samples)
    for title, row in pairs(account.rows) do
        local had = row.right + sum(row.expected) + row.abandoned + row.findings
        if had ~= row.asked then
            findings[#findings + 1] = string.format("lost: %d calls of %s, and %d outcomes",
                                                    row.asked, title, had)
        end
    end
    return findings
end


--- A line.
function _M.summary(account, faults, options)
    local total = totals_of(account)
    local format = "soak: %d s, seed %d: %d calls, %d right (%d requests), %d expected errors, "
        .. "%d abandoned, %d findings; %d faults"
    return format:format(options.seconds, options.seed, total.asked, total.right, total.requests,
                         total.expected, total.abandoned, total.findings, sum(faults))
end


local function codes_of(row)
    local parts = {}
    for _, code in ipairs(sorted(row.expected)) do
        parts[#parts + 1] = code .. " " .. row.expected[code]
    end
    return table.concat(parts, ", ")
end


local function add_calls(lines, account)
    local function add(...)
        lines[#lines + 1] = string.format("%-46s %8s %8s %9s %8s %9s %8s  %s", ...)
    end
    add("calls", "asked", "right", "requests", "expected", "abandoned", "findings", "errors")
    for _, title in ipairs(sorted(account.rows)) do
        local row = account.rows[title]
        add(title, row.asked, row.right, row.requests, sum(row.expected), row.abandoned,
            row.findings, codes_of(row))
    end
    local total = totals_of(account)
    add("all", total.asked, total.right, total.requests, total.expected, total.abandoned,
        total.findings, "")
end


local function add_counts(lines, title, counts)
    local parts = {}
    for _, name in ipairs(sorted(counts)) do
        parts[#parts + 1] = (name == "" and "nobody" or name) .. " " .. counts[name]
    end
    lines[#lines + 1] = title .. ": " .. table.concat(parts, "; ")
end


local function add_memory(lines, before, after)
    lines[#lines + 1] = string.format("%-16s %8s %16s %16s %16s %8s", "worker at rest", "calls",
                                      "resident MiB", "native MiB", "Lua MiB", "files")
    for i, first in ipairs(before) do
        local last = after[i] or first
        local function pair(name)
            return string.format("%7.2f %8.2f", first[name] / MIB, last[name] / MIB)
        end
        lines[#lines + 1] = string.format("%-16d %8d %16s %16s %16s %3d %4d", last.pid,
            last.calls - first.calls, pair("resident"), pair("native"), pair("lua"),
            first.descriptors, last.descriptors)
    end
end


local function add_stats(lines, samples)
    local total = {}
    for _, sample in ipairs(samples) do
        for name, value in pairs(sample.stats) do
            if type(value) == "number" then
                total[name] = (total[name] or 0) + value
            end
        end
    end
    add_counts(lines, "counters of the gateway that is not reloaded", total)
end


---@param about table
---@return string
function _M.render(about)
    local lines = {}
    add_calls(lines, about.account)
    lines[#lines + 1] = ""
    add_counts(lines, "where to", about.account.targets)
    add_counts(lines, "right, as whom", about.account.subjects)
    add_counts(lines, "faults", about.faults)
    lines[#lines + 1] = ""
    add_memory(lines, about.before, about.after)
    add_stats(lines, about.after)
    lines[#lines + 1] = ""
    for _, finding in ipairs(about.findings) do
        lines[#lines + 1] = "FINDING: " .. finding
    end
    lines[#lines + 1] = _M.summary(about.account, about.faults, about.options)
    return table.concat(lines, "\n")
end


return _M
