--- Pipelining: several requests are sent before the first response is read (RFC 9112, 9.3.2).

local failures = require("resty.mtls.failure")
local log = require("resty.mtls.log")
local requests = require("resty.mtls.request")

local ipairs = ipairs
local lower = string.lower
local pairs = pairs
local rawget = rawget
local rawset = rawset
local setmetatable = setmetatable
local sub = string.sub
local tostring = tostring
local type = type


local _M = {}


local function expects_continue(params)
    local headers = type(params.headers) == "table" and params.headers or {}
    for name, value in pairs(headers) do
        if lower(tostring(name)) == "expect" and lower(tostring(value)) == "100-continue" then
            return true
        end
    end
end


-- Takes a body off the connection for the response behind it, and keeps it for its own reader.
local function set_body_aside(lazy)
    local body, err, details
    if rawget(lazy, "body_reader") then
        body, err, details = lazy:read_body()
    end
    if not rawget(lazy, "has_body") then
        return
    end
    rawset(lazy, "body_reader", function(max)
        if err then
            return nil, err, details
        end
        if not body or body == "" then
            return nil
        end
        local part = body
        if type(max) == "number" and max > 0 then
            part, body = sub(body, 1, max), sub(body, max + 1)
        else
            body = ""
        end
        return part
    end)
end


local function read(pipeline, upto)
    while pipeline.read < upto do
        local index = pipeline.read + 1
        local previous = pipeline[index - 1]
        if previous and rawget(previous, "status") then
            set_body_aside(previous)
        end
        pipeline.read = index
        local lazy = pipeline[index]
        local res, err, details = requests.receive(pipeline.httpc, pipeline.params[index])
        if res then
            for name, value in pairs(res) do
                rawset(lazy, name, value)
            end
        else
            failures.note(pipeline.httpc, err, details)
            log.write("error", "cannot read a pipelined response: " .. log.escape(tostring(err)))
        end
    end
end


function _M.request(httpc, all_params)
    local params = {}
    for i, given in ipairs(all_params) do
        if type(given) ~= "table" then
            return nil, "bad request parameters: expected a table, got " .. type(given), {
                code = "bad_argument",
                stage = "options",
                hint = "give one table of parameters for each request",
            }
        end
        if expects_continue(given) then
            return nil, "Cannot pipeline request specifying Expect: 100-continue", {
                code = "bad_argument",
                stage = "options",
                hint = "send this request by itself",
            }
        end
        params[i] = given
    end
    for _, given in ipairs(params) do
        local ok, err, details = requests.send(httpc, given)
        if not ok then
            httpc:close()
            return nil, err, details
        end
    end

    local pipeline = { httpc = httpc, params = params, read = 0 }
    local responses = {}
    for i in ipairs(params) do
        local lazy = setmetatable({}, {
            __index = function(self, name)
                if pipeline.read < i then
                    read(pipeline, i)
                end
                return rawget(self, name)
            end,
        })
        pipeline[i] = lazy
        responses[i] = lazy
    end
    return responses
end


return _M
