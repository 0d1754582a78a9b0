--- JSON for reports. Plain luajit may have no cjson, and cjson writes an empty list as an object.

local byte = string.byte
local concat = table.concat
local format = string.format
local gsub = string.gsub
local match = string.match
local pairs = pairs
local sort = table.sort
local sub = string.sub
local tostring = tostring
local type = type


local _M = {}


local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

-- UTF-8 by its first byte (RFC 3629, 4); patterns of more than one because of overlong forms,
-- surrogates and the end of Unicode.
local sequences = {
    "^[\194-\223][\128-\191]",
    "^\224[\160-\191][\128-\191]",
    "^[\225-\236\238\239][\128-\191][\128-\191]",
    "^\237[\128-\159][\128-\191]",
    "^\240[\144-\191][\128-\191][\128-\191]",
    "^[\241-\243][\128-\191][\128-\191][\128-\191]",
    "^\244[\128-\143][\128-\191][\128-\191]",
}
local REPLACEMENT = "\239\191\189"


-- Servers choose what stands in certificates and reason phrases.
local function valid_utf8(run)
    local parts, position = {}, 1
    while position <= #run do
        local sequence
        for i = 1, #sequences do
            sequence = sequence or match(run, sequences[i], position)
        end
        parts[#parts + 1] = sequence or REPLACEMENT
        position = position + (sequence and #sequence or 1)
    end
    return concat(parts)
end


local function string_of(value)
    value = gsub(value, '[%c"\\]', function(character)
        return escapes[character] or format("\\u%04x", byte(character))
    end)
    return '"' .. gsub(value, "[\128-\255]+", valid_utf8) .. '"'
end


local function number_of(value)
    if value ~= value or value == math.huge or value == -math.huge then
        return "null"
    elseif value % 1 == 0 then
        return format("%d", value)
    end
    return format("%.3f", value)
end


local encode


local function list_of(value, indent)
    local items = {}
    for i = 1, #value do
        items[i] = encode(value[i], indent)
    end
    return items, "[", "]"
end


local function object_of(value, indent)
    local names, items = {}, {}
    for name in pairs(value) do
        names[#names + 1] = name
    end
    sort(names)
    for i = 1, #names do
        items[i] = string_of(names[i]) .. ": " .. encode(value[names[i]], indent)
    end
    return items, "{", "}"
end


function encode(value, indent)
    if type(value) == "string" then
        return string_of(value)
    elseif type(value) == "number" then
        return number_of(value)
    elseif type(value) ~= "table" then
        return tostring(value)
    end
    local inner = indent .. "  "
    -- No table of a report is an object without fields.
    local is_object = next(value) ~= nil and value[1] == nil
    local items, first, last = (is_object and object_of or list_of)(value, inner)
    if #items == 0 then
        return first .. last
    end
    return first .. "\n" .. inner .. concat(items, ",\n" .. inner) .. "\n" .. sub(inner, 3) .. last
end


--- A report as JSON over several lines, its fields in alphabetical order.
---@param value table
---@return string
function _M.encode(value)
    return encode(value, "")
end


return _M
