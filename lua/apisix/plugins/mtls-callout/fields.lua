--- Parts of a response: `status`, `header.NAME`, `body`, and `body.NAME.NAME` of a JSON document.

local core = require("apisix.core")

local concat = table.concat
local find = string.find
local format = string.format
local gmatch = string.gmatch
local match = string.match
local pairs = pairs
local sub = string.sub
local tostring = tostring
local type = type


local _M = {}


--- Schema of the name of a part.
_M.schema = {
    type = "string",
    pattern = [[^(status|header\.[^:\s]+|body(\.[^.]+)*)$]],
}


-- As text; nil for what is not there. In the notation of `tostring`, large ids lose digits.
local function to_text(value)
    local kind = type(value)
    if kind == "string" then
        return value
    elseif kind == "number" then
        return value % 1 == 0 and format("%.0f", value) or tostring(value)
    elseif kind == "boolean" then
        return tostring(value)
    elseif kind == "table" then
        return core.json.encode(value)
    end
    return nil
end


-- Decoded once, for all that is taken out of it.
local function document_of(res)
    res.document = res.document or core.json.decode(res.body)
    if type(res.document) ~= "table" then
        return nil, "the endpoint's answer is not a JSON object"
    end
    return res.document
end


local function part_of(res, path)
    local value, err = document_of(res)
    if not value then
        return nil, err
    end
    for name in gmatch(path, "[^.]+") do
        if type(value) ~= "table" then
            return nil
        end
        value = value[name]
    end
    return to_text(value)
end


local function header_of(res, name)
    local value = res.headers[name]
    return type(value) == "table" and concat(value, ", ") or value
end


-- Not in one pattern: that takes the square of a run of blanks, and a body may be a megabyte of
-- them.
local function trimmed(text)
    local from = match(text, "^%s*()")
    return from > #text and "" or match(text, ".*%S", from)
end


local function field_of(res, field)
    if field == "status" then
        return to_text(res.status)
    elseif field == "body" then
        return trimmed(res.body)
    elseif sub(field, 1, 7) == "header." then
        return header_of(res, sub(field, 8))
    end
    return part_of(res, sub(field, 6))
end


--- The parts of a response that are asked for. Those that are not there are left out, and so are
--- those with control characters: in a header, they could be the beginning of another one.
---@param res resty.mtls.response
---@param wanted table<string, string>? names of parts, by the names to return them under
---@return table<string, string>? found
---@return string? err the body was to be JSON, and is not
function _M.of(res, wanted)
    local found = {}
    for name, field in pairs(wanted or {}) do
        local text, err = field_of(res, field)
        if err then
            return nil, err
        end
        if text and find(text, "%c") then
            core.log.warn("mtls-callout: ", field, " has control characters, and is left out")
        else
            found[name] = text
        end
    end
    return found
end


return _M
