--- One request with the library, in this process or inside a gateway, and how it went as a table.
---
---     local outcome = call.make({ scheme = "https", host = "localhost", port = server.port })
---     assert.equals("client_certificate_required", outcome.details.code)
---
--- Options are those of `connect`, with those of `request` under `request`. Inside nginx they
--- travel as JSON, so that there they cannot have functions.
local cjson = require("cjson")

local _M = {}

---@class Outcome
---@field at "connect"|"request"|"body"|"done" the step that failed, or "done"
---@field err string?
---@field err_type string? its Lua type
---@field details table?
---@field status integer?
---@field headers table<string, string>?
---@field body string?
---@field reused integer? get_reused_times after `connect`
---@field ssl table? get_ssl_info afterwards; also if it failed


local function failed(at, err, details)
    return { at = at, err = err, err_type = type(err), details = details }
end


local function exchange(httpc, options)
    local ok, err, details = httpc:connect(options)
    if not ok then
        return failed("connect", err, details)
    end
    local reused = httpc:get_reused_times()
    local res
    res, err, details = httpc:request(options.request or {})
    if not res then
        return failed("request", err, details)
    end
    local body
    body, err, details = res:read_body()
    if not body then
        return failed("body", err, details)
    end
    return { at = "done", status = res.status, headers = res.headers, body = body,
             reused = reused }
end


--- Connects, requests and reads the body.
---@param options table `keep = true` gives the connection to the pool; it is closed otherwise.
---`timeout` is in milliseconds, 5000 unless given; `timeouts` are those of set_timeouts
---@return Outcome
function _M.make(options)
    local httpc = require("resty.mtls.http").new()
    httpc:set_timeout(options.timeout or 5000)
    if options.timeouts then
        httpc:set_timeouts(unpack(options.timeouts))
    end
    local outcome = exchange(httpc, options)
    outcome.ssl = httpc:get_ssl_info()
    if options.keep then
        httpc:set_keepalive()
    else
        httpc:close()
    end
    return outcome
end


--- The same inside nginx.
---@param gateway Gateway
---@param options table
---@param phase string? content unless given
---@return Outcome
function _M.inside(gateway, options, phase)
    local output = gateway:run([[
        local cjson, call = require("cjson"), require("spec.support.call")
        print(cjson.encode(call.make(cjson.decode(${options}))))
    ]], { phase = phase, vars = { options = "[==[" .. cjson.encode(options) .. "]==]" } })
    return cjson.decode(output)
end


return _M
