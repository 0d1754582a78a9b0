--- Tables that know what they do not have: reading another field, or writing one, is an error.
--
-- The stand-ins for APISIX are such tables, so that no plugin passes a spec by calling what a
-- stand-in happens to leave out.

--- A strict table.
---@param name string for messages
---@param fields table
---@return table
return function(name, fields)
    return setmetatable({}, {
        __index = function(_, field)
            local value = fields[field]
            if value == nil then
                error("the stand-in for " .. name .. " has no '" .. tostring(field) .. "'", 2)
            end
            return value
        end,
        __newindex = function(_, field)
            error("the stand-in for " .. name .. " is not to be changed: '" .. tostring(field)
                .. "'", 2)
        end,
    })
end
