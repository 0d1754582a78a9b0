--- Bodies that nobody can mix up: every byte follows from the id of the request and its place.
---
--- Both ends make them, and compare what has come byte by byte. A part of another body, a part at
--- another place, and one that is missing or came twice are all seen.
local bit = require("bit")
local ffi = require("ffi")

local _M = {}

local bxor, lshift, rshift, rol = bit.bxor, bit.lshift, bit.rshift, bit.rol


--- The body of an id.
---@param id integer
---@param length integer bytes
---@return string
function _M.bytes(id, length)
    if length == 0 then
        return ""
    end
    local words = math.ceil(length / 4)
    local buffer = ffi.new("int32_t[?]", words)
    local seed = bxor(bit.tobit(id * 40503), rol(bit.tobit(id), 16), 0x5bd1e995)
    for i = 0, words - 1 do
        -- A round of xorshift spreads the bits of place and id over the word.
        local word = bxor(seed, i * 9973)
        word = bxor(word, lshift(word, 13))
        word = bxor(word, rshift(word, 17))
        buffer[i] = bxor(word, lshift(word, 5))
    end
    return ffi.string(buffer, length)
end


--- Where two bodies differ first.
---@return string description
function _M.difference(expected, got)
    if #expected ~= #got then
        return #got .. " bytes in place of " .. #expected
    end
    for i = 1, #expected do
        if expected:byte(i) ~= got:byte(i) then
            return "byte " .. i .. " of " .. #expected .. " is another one"
        end
    end
    return "none"
end


return _M
