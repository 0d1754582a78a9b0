--- Random numbers that follow from a seed, on their own for each call: what call 1234 of a seed is
--- does not depend on what others do meanwhile.
local bit = require("bit")

local _M = {}

---@class Random
---@field state integer
local Random = {}
Random.__index = Random


local function step(state)
    state = bit.bxor(state, bit.lshift(state, 13))
    state = bit.bxor(state, bit.rshift(state, 17))
    return bit.bxor(state, bit.lshift(state, 5))
end


---@param seed integer
---@param stream integer? another one gives other numbers
---@return Random
function _M.new(seed, stream)
    local state = bit.bxor(bit.tobit(seed * 40503), bit.rol(bit.tobit(stream or 0), 15))
    state = state == 0 and 1 or state
    -- Seeds that are near to each other are far apart after some steps.
    for _ = 1, 8 do
        state = step(state)
    end
    return setmetatable({ state = state }, Random)
end


--- A number from 1 to `last`.
---@param last integer
---@return integer
function Random:upto(last)
    self.state = step(self.state)
    return bit.rshift(self.state, 1) % last + 1
end


--- A number from `first` to `last`.
function Random:between(first, last)
    return first - 1 + self:upto(last - first + 1)
end


--- True once in so many times.
function Random:one_in(count)
    return self:upto(count) == 1
end


---@generic T
---@param list T[]
---@return T
function Random:pick(list)
    return list[self:upto(#list)]
end


--- One of a list, in proportion to the `weight` of each.
---@generic T
---@param list T[] with the field `weight`
---@return T
function Random:weighed(list)
    local sum = 0
    for _, item in ipairs(list) do
        sum = sum + item.weight
    end
    local left = self:upto(sum)
    for _, item in ipairs(list) do
        left = left - item.weight
        if left <= 0 then
            return item
        end
    end
end


return _M
