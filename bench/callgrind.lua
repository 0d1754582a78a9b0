--- Reads what callgrind writes: how many instructions ran in which file of code.
local fs = require("spec.support.fs")
local lfs = require("lfs")

local _M = {}


--- Instructions of one thread, by the file that they are in. What LuaJIT has compiled is in none.
---@param text string a dump
---@return table<string, integer>
function _M.by_object(text)
    local names, counts = {}, {}
    local object, is_call = nil, false
    for line in text:gmatch("[^\n]+") do
        -- The name of an object stands there the first time; later there is only its number.
        local key, id, name = line:match("^(c?ob)=(%b())%s*(.*)$")
        local count = line:match("^[%d%+%-%*]%S* (%d+)$")
        if key then
            names[id] = name ~= "" and name or names[id]
            object = key == "ob" and names[id] or object
        elseif line:find("^calls=") then
            is_call = true
        elseif count and is_call then
            -- What was called has lines of its own.
            is_call = false
        elseif count then
            local base = object == "???" and "code by LuaJIT" or object:match("[^/]*$")
            counts[base] = (counts[base] or 0) + tonumber(count)
        end
    end
    return counts
end


--- The dumps of a process: the first thread's, and those of all others.
---@param folder string
---@return string main
---@return string[] others
function _M.dumps(folder)
    local main, others = nil, {}
    for name in lfs.dir(folder) do
        local thread = name:match("%.1%-(%d+)$")
        if thread == "01" then
            main = fs.read(folder .. "/" .. name)
        elseif thread then
            others[#others + 1] = fs.read(folder .. "/" .. name)
        end
    end
    return assert(main, "callgrind has written nothing"), others
end


return _M
