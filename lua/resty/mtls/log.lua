--- What the native library has to say, in nginx's error log; outside of nginx on standard error.

local native = require("resty.mtls.native")


local _M = {}


--- Writes a message.
---@param level "error"|"warn"
---@param text string
function _M.write(level, text)
    text = "resty.mtls: " .. text
    if ngx and ngx.log then
        ngx.log(level == "error" and ngx.ERR or ngx.WARN, text)
    else
        io.stderr:write(text, "\n")
    end
end


--- Writes what has come up since the last time.
function _M.flush()
    local entries = native.take_log()
    for i = 1, entries and #entries or 0 do
        _M.write(entries[i][1], entries[i][2])
    end
end


return _M
