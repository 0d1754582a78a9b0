--- Header tables: plain tables that are also found in any letter case, and with `_` for `-`.

local gsub = string.gsub
local lower = string.lower
local next = next
local rawget = rawget
local rawset = rawset
local setmetatable = setmetatable
local type = type


local _M = {}


-- The spelling under which a name is in the table, in any letter case. A header table is short, so
-- that looking through it costs less than keeping an index up to date that callers may bypass.
local function find(headers, name)
    local lowered = lower(name)
    for key in next, headers do
        if type(key) == "string" and #key == #name and lower(key) == lowered then
            return key
        end
    end
end


-- `headers.content_type` is Content-Type, unless there is a field with an underscore in its name.
local function spelling(headers, name)
    if type(name) ~= "string" then
        return nil
    end
    local key = find(headers, name)
    if not key then
        local hyphened, count = gsub(name, "_", "-")
        if count > 0 then
            key = find(headers, hyphened)
        end
    end
    return key
end


-- Header table -> where to look for what is not in it.
local fallbacks = setmetatable({}, { __mode = "k" })


local mt = {
    __index = function(headers, name)
        local key = spelling(headers, name)
        if key then
            return rawget(headers, key)
        end
        local fallback = fallbacks[headers]
        return fallback and fallback[name]
    end,

    __newindex = function(headers, name, value)
        rawset(headers, spelling(headers, name) or name, value)
    end,
}


--- Makes a table a header table.
---@param headers? table<string, string|string[]>
---@return table<string, string|string[]>
function _M.new(headers)
    return setmetatable(headers or {}, mt)
end


--- Finds in `headers` also what is in `others` alone. Iteration goes over `headers` only.
---@param headers table from `new`
---@param others table
function _M.add_fallback(headers, others)
    fallbacks[headers] = others
end


return _M
