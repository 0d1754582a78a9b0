--- Who asks the gateway: wrk, and the probe. Both are processes of their own.
local process = require("spec.support.process")

local _M = {}

-- Seconds between two requests of the probe.
local PROBE_INTERVAL = 0.004


---@class Figures
---@field requests number
---@field errors number
---@field p50 number seconds, as the others
---@field p99 number
---@field worst number

---@param output string
---@return Figures
local function parse(output)
    local figures = {}
    for name, value in (output:match("figures ([^\n]+)") or ""):gmatch("(%w+)=(%S+)") do
        figures[name] = tonumber(value)
    end
    if not figures.requests then
        error("no figures in:\n" .. output, 0)
    end
    return figures
end


--- Starts wrk.
---@param url string
---@param connections integer
---@param seconds integer whole seconds, which is all that wrk knows
---@return Process
function _M.start(url, connections, seconds)
    return process.start({ "wrk", "-t", "1", "-c", tostring(connections), "-d", seconds .. "s",
                           "--timeout", "60s", "-s", "bench/wrk.lua", url })
end


--- Runs wrk to its end.
---@param url string
---@param connections integer
---@param seconds integer
---@return Figures
function _M.run(url, connections, seconds)
    local wrk = _M.start(url, connections, seconds)
    if not wrk:wait(seconds + 30) then
        wrk:kill()
    end
    return parse(wrk:output())
end


--- Looks at a location at a steady pace. See probe.lua.
---@param port integer
---@param path string
---@param seconds number
---@return Figures
function _M.probe(port, path, seconds)
    return parse(process.check({ "luajit", "bench/probe.lua", tostring(port), path,
                                 tostring(seconds), tostring(PROBE_INTERVAL) },
                               { timeout = seconds + 60 }))
end


return _M
