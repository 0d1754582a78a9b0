--- Which processes exist, as the kernel tells in /proc.
local fs = require("spec.support.fs")
local lfs = require("lfs")

local _M = {}


--- State, parent and process group of a process.
---@param pid integer|string
---@return { state: string, parent: integer, group: integer }? stat nil if there is no such process
function _M.stat(pid)
    local text = fs.read("/proc/" .. pid .. "/stat")
    -- The name stands in parentheses and may contain any character, parentheses too.
    local state, parent, group = (text or ""):match("^%d+ %(.*%) (%a) (%d+) (%d+)")
    if state then
        return { state = state, parent = tonumber(parent), group = tonumber(group) }
    end
end


local function list(matches)
    local pids = {}
    for name in lfs.dir("/proc") do
        local stat = name:find("^%d+$") and _M.stat(name)
        -- A zombie has ended; only its parent has not looked yet.
        if stat and stat.state ~= "Z" and matches(stat) then
            pids[#pids + 1] = tonumber(name)
        end
    end
    table.sort(pids)
    return pids
end


--- Living processes of a process group.
---@param group integer
---@return integer[] pids
function _M.members(group)
    return list(function(stat) return stat.group == group end)
end


--- Living children of a process.
---@param parent integer
---@return integer[] pids
function _M.children(parent)
    return list(function(stat) return stat.parent == parent end)
end


return _M
