--- Whether workers have kept something: both samples are of workers at rest, after garbage was
--- collected and free memory given back, so that what is more was kept.
local _M = {}

local KIB, MIB = 1024, 1024 * 1024

-- Bytes that may be more: so many for each call between the samples, and so many once, for caches
-- and compiled code that come late.
--
-- What malloc and Lua have given out and not got back is exact: in half a minute it grew by 0.1
-- to 0.4 MiB, and in five minutes with 21000 calls by no more. A KiB that each call leaves is
-- 1.6 MiB in half a minute, even where the machine is busy. What is resident is not exact: Lua
-- keeps the room of the most garbage that there ever was, and a larger crowd of large bodies may
-- come at any time. That bound is for what neither of the others counts.
local BOUNDS = {
    { name = "resident", each = 128, once = 12 * MIB },
    { name = "native", each = 64, once = MIB },
    { name = "lua", each = 64, once = 768 * KIB },
}


local function open_connections(stats)
    local parts = {}
    for name, its in pairs(stats.destinations) do
        if its.connections_open > 0 then
            parts[#parts + 1] = its.connections_open .. " to " .. name
        end
    end
    return table.concat(parts, ", ")
end


--- What is not as it is at rest.
---@param samples table[]
---@return string[]
function _M.unsettled(samples)
    local findings = {}
    for _, sample in ipairs(samples) do
        if sample.failure then
            findings[#findings + 1] = "a worker cannot tell: " .. sample.failure
        elseif not sample.at_rest then
            local stats = sample.stats
            findings[#findings + 1] = string.format("worker %d does not come to rest: connections "
                .. "open %d (%s), idle %d; requests in flight %d, operations %d; timers %d",
                sample.pid, stats.connections_open, open_connections(stats),
                stats.connections_idle, stats.requests_in_flight, stats.operations_in_flight,
                sample.timers)
        end
    end
    return findings
end


--- What the workers of a gateway have kept.
---@param before table[] samples
---@param after table[] samples of the same workers
---@return string[] findings
function _M.compare(before, after)
    local findings = _M.unsettled(before)
    for _, finding in ipairs(_M.unsettled(after)) do
        findings[#findings + 1] = finding
    end
    for i, first in ipairs(before) do
        local last = after[i]
        if not last or first.pid ~= last.pid then
            findings[#findings + 1] = "worker " .. tostring(first.pid) .. " is gone"
            return findings
        end
        local calls = last.calls - first.calls
        for _, bound in ipairs(BOUNDS) do
            local more = last[bound.name] - first[bound.name]
            if more > bound.each * calls + bound.once then
                findings[#findings + 1] = string.format(
                    "worker %d kept memory: %s grew by %.0f KiB in %d calls, %.0f bytes each",
                    last.pid, bound.name, more / KIB, calls, more / calls)
            end
        end
        if last.descriptors > first.descriptors then
            findings[#findings + 1] = string.format("worker %d kept descriptors: %d, and now %d",
                                                    last.pid, first.descriptors, last.descriptors)
        end
    end
    return findings
end


return _M
