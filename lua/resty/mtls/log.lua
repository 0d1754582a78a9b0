--- Lines in nginx's error log; outside of nginx on standard error.

local native = require("resty.mtls.native")

local byte = string.byte
local format = string.format
local gsub = string.gsub
local sub = string.sub


local _M = {}


-- Names of ngx's constants.
local levels = { error = "ERR", warn = "WARN", debug = "DEBUG" }

-- Bytes of one value in a line. nginx cuts lines of more than 2048 bytes off.
local MAX_VALUE = 500


--- Writes a message.
---@param level "error"|"warn"|"debug"
---@param text string
function _M.write(level, text)
    text = "resty.mtls: " .. text
    if ngx and ngx.log then
        ngx.log(ngx[levels[level]], text)
    else
        io.stderr:write(text, "\n")
    end
end


local function escape_byte(character)
    if character == '"' or character == "\\" then
        return "\\" .. character
    end
    return format("\\x%02X", byte(character))
end


--- A text that servers have a say in, as part of a line: it can neither end the line, nor a value
--- in quotation marks, nor make a terminal do something.
---@param text string
---@return string
function _M.escape(text)
    if #text > MAX_VALUE then
        text = sub(text, 1, MAX_VALUE) .. "..."
    end
    return (gsub(text, '[%z\1-\31"\\\127-\255]', escape_byte))
end


--- Writes what the native library has had to say since the last time.
function _M.flush()
    local entries = native.take_log()
    for i = 1, entries and #entries or 0 do
        _M.write(entries[i][1], entries[i][2])
    end
end


return _M
