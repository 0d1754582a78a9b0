--- Calls that failed: counted by code and destination, and logged if `log_failures` is set.
--
-- A failure is noted where it leaves the library, so that each counts once, wherever it comes from.

local destinations = require("resty.mtls.destination")
local log = require("resty.mtls.log")
local native = require("resty.mtls.native")
local steps = require("resty.mtls.steps")

local find = string.find
local format = string.format
local sub = string.sub
local tostring = tostring
local type = type


local _M = {}


local is_logging = false


-- {is TLS, host, port} of what the call was about; no host if its options do not say. A unix socket
-- has no port.
local function target(httpc, options)
    if options then
        local scheme, host, port = destinations.endpoint(options)
        if scheme then
            return scheme == "https", host, port
        end
        return false
    end
    local host = httpc.host
    if host and sub(host, 1, 5) == "unix:" then
        return httpc.ssl == true, sub(host, 6)
    end
    return httpc.ssl == true, host, httpc.port
end


-- A value of a line, in quotation marks unless it is plain. "-" stands for none.
local function value(of)
    if of == nil then
        return "-"
    end
    of = tostring(of)
    if find(of, "^[%w._:/%[%]-]+$") and #of <= 255 then
        return of
    end
    return '"' .. log.escape(of) .. '"'
end


local function write(httpc, details, host, port)
    local number, reused = httpc.client:attempt()
    local elapsed = httpc.began and format("%.0f", native.now() - httpc.began)
    log.write("warn", "request failed code=" .. value(details.code)
        .. " stage=" .. value(details.stage)
        .. " host=" .. value(host)
        .. " port=" .. value(port)
        .. " alert=" .. value(details.alert)
        .. " elapsed_ms=" .. value(elapsed)
        .. " reused=" .. value(reused)
        .. " attempt=" .. value(number)
        .. ' hint="' .. log.escape(tostring(details.hint or "")) .. '"')
end


--- Notes when a call begins, for those who want to know how long it took to fail.
---@param httpc table
function _M.begin(httpc)
    if is_logging then
        httpc.began = native.now()
    end
end


--- Notes a call that failed, and returns what its caller gets.
---@param httpc table
---@param err any
---@param details any
---@param options? table connect options, where the call was about another destination than that of
---the connection
---@return nil
---@return any err
---@return any details
function _M.note(httpc, err, details, options)
    local code = type(details) == "table" and details.code
    -- What the iterator of a request body gave as its error is not ours.
    if type(code) ~= "string" then
        return nil, err, details
    end
    local is_tls, host, port = target(httpc, options)
    native.count_failure(code, is_tls, host, port)
    if httpc.debugging then
        steps.failed(err, details)
    end
    if is_logging then
        write(httpc, details, host, port)
    end
    return nil, err, details
end


--- The same for the body of a response, which may be asked for again after it has failed.
---@param httpc table
---@param response table
---@param err any
---@param details any
---@return nil
---@return any err
---@return any details
function _M.note_body(httpc, response, err, details)
    if httpc.failed_response == response then
        return nil, err, details
    end
    httpc.failed_response = response
    return _M.note(httpc, err, details)
end


--- Whether to log each failure.
---@param on boolean
function _M.set_logging(on)
    is_logging = on
end


return _M
