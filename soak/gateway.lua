--- Runs inside of the gateways: makes the calls that the driver asks for, says what came of each,
--- and tells what the worker has in it when it is at rest.
local call_of = require("soak.call")
local cjson = require("cjson")
local hostile = require("soak.hostile")
local http = require("resty.mtls.http")
local identities = require("soak.identities")
local rest = require("soak.rest")
local sabotage = require("soak.sabotage")
local targets = require("soak.targets")

local _M = {}

local ways = {}
local settings

-- Of this worker, since it began.
local calls = 0


--- For init_by_lua.
---@param path string of the settings, see servers.lua
function _M.set_up(path)
    local file = assert(io.open(path, "rb"))
    settings = cjson.decode(file:read("*a"))
    file:close()
    for _, name in ipairs({ "soak.ways.plain", "soak.ways.crowded" }) do
        for way, fn in pairs(require(name)) do
            ways[way] = fn
        end
    end
    identities.set_up(settings)
    sabotage.key_path = settings.files.key
    assert(http.set_defaults({ log_failures = settings.log_failures }))
end


--- For init_worker_by_lua.
function _M.start_worker()
    rest.watch(function() return calls end, call_of.end_shared)
end


local function call_from_arguments()
    local arguments = ngx.req.get_uri_args()
    local id = tonumber(arguments.call)
    return call_of.new(settings, {
        id = id, seed = tonumber(arguments.seed), target = targets.by_name[arguments.target],
        who = identities.by_name[arguments.who],
    }), arguments
end


local function outcome_of(fn, ...)
    local ok, raised = pcall(fn, ...)
    if ok then
        return "right"
    elseif type(raised) ~= "table" then
        return "finding\t" .. tostring(raised)
    elseif raised.finding then
        return "finding\t" .. raised.finding
    end
    return "failed\t" .. raised.code .. "\t" .. raised.stage .. "\t" .. raised.err
end


--- Makes a call. The answer says what came of it: "right", "failed" with the code, or "finding".
function _M.call()
    calls = calls + 1
    sabotage.in_call(settings.sabotage, calls)
    local call, arguments = call_from_arguments()
    local scene = hostile.by_name[arguments.way]
    local outcome = scene and outcome_of(hostile.run, call, scene)
        or outcome_of(ways[arguments.way], call)
    ngx.header["X-Call"] = arguments.call
    ngx.header["X-Subject"] = call.subject
    ngx.header["X-Requests"] = math.max(call.used, 1)
    ngx.print((outcome:gsub("\n", " ")))
end


--- Passes a request on. What its client gets is the server's answer, or else as above.
function _M.pass()
    calls = calls + 1
    local call = call_from_arguments()
    local outcome = outcome_of(ways.pass, call)
    if outcome ~= "right" and not ngx.headers_sent then
        ngx.header["X-Outcome"] = (outcome:gsub("\n", " "))
        ngx.status = 502
    end
end


return _M
