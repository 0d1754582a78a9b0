--- A gateway whose requests each make a call to the upstream of in_flight_server.lua.
---
---     local gateway = callers.gateway(server, 2)
---     local sent = callers.send(gateway, "/gated", 7)    8 calls, which wait at gate 7
---     …
---     sent:receive()                                     each has been answered, with its own id
local fs = require("spec.support.fs")
local in_flight_server = require("spec.support.in_flight_server")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local assert = require("luassert")

local _M = {}

-- Bytes; more than an HTTP/2 stream takes at once.
local UPLOAD = 100000

local CALLS = [[
    location = /call {
        content_by_lua_block {
            ]] .. in_flight_server.CHUNK .. [[
            local args = ngx.req.get_uri_args()
            ngx.log(ngx.NOTICE, "makes call ", args.id, ".")
            local request = { path = args.path .. "?id=" .. args.id .. "&gate=" .. args.gate }
            if args.n ~= "0" then
                request.method, request.body = "POST", ("x"):rep(tonumber(args.n))
            end
            local outcome = in_flight.call(targets[args.v == "1" and 1 or 2], request)
            if outcome.kept ~= 1 then
                ngx.log(ngx.ERR, cjson.encode(outcome))
            end
            ngx.print(outcome.body or outcome.err)
        }
    }
]]

local last_id = 0

---@class Sent
---@field calls table<integer, { expected: string, exchange: Exchange }> by id
local Sent = {}
Sent.__index = Sent


-- Pids by the names of directories of wake sockets, which are below one of these.
local function wake_directories(prefix)
    local found = {}
    for _, parent in ipairs({ "/dev/shm", "/tmp", os.getenv("TMPDIR") or "/tmp", prefix }) do
        for name in lfs.dir(parent) do
            found[name] = name:match("^resty%-mtls%-(%d+)%-")
        end
    end
    return found
end


--- Starts a gateway.
---@param server InFlightServer
---@param workers integer
---@return Gateway
function _M.gateway(server, workers)
    -- A process with the number of a worker to come may have been killed before it removed its own.
    local before = wake_directories()
    local gateway = nginx.gateway({ server = CALLS, vars = server.vars, workers = workers,
                                    log_level = "notice" })
    gateway.wake_directories_before = before
    return gateway
end


--- The id of the call that was sent last.
---@return integer
function _M.last_id()
    return last_id
end


--- Sends eight calls: over HTTP/1.1 and HTTP/2, with a body and without.
---@param gateway Gateway
---@param path "/gated"|"/taken" of the upstream
---@param gate integer|string
---@return Sent
function _M.send(gateway, path, gate)
    local calls = {}
    for _, version in ipairs({ "1", "1", "2", "2" }) do
        for _, size in ipairs({ 0, UPLOAD }) do
            last_id = last_id + 1
            calls[last_id] = {
                expected = ("%s %d %d"):format(path:sub(2), last_id, size),
                exchange = gateway:send(("/call?path=%s&id=%d&gate=%s&v=%s&n=%d"):format(
                    path, last_id, gate, version, size)),
            }
        end
    end
    return setmetatable({ calls = calls }, Sent)
end


--- Waits for all answers, which have to be right.
---@return integer count
function Sent:receive()
    local count = 0
    for _, call in pairs(self.calls) do
        local response = assert(call.exchange:receive())
        assert.same({ 200, call.expected }, { response.status, response.body })
        count = count + 1
    end
    return count
end


--- Waits for what becomes of them: an answer that there is has to be right.
---@param is_answered fun(id: integer): boolean whether it has to be there
---@return integer answered
---@return integer cut
function Sent:receive_some(is_answered)
    local answered, cut = 0, 0
    for id, call in pairs(self.calls) do
        local response = call.exchange:receive()
        if response then
            assert.same({ 200, call.expected }, { response.status, response.body })
            answered = answered + 1
        else
            cut = cut + 1
        end
        assert.equals(is_answered(id), response ~= nil)
    end
    return answered, cut
end


--- The upstream has answered each of the calls once.
---@param server InFlightServer
---@param first integer
---@param last integer
function _M.assert_served_once(server, first, last)
    local counts, total
    process.wait_until("all are in the upstream's log", function()
        counts, total = server:served()
        return total >= last - first + 1
    end)
    assert.equals(last - first + 1, total)
    for id = first, last do
        assert.equals(1, counts[tostring(id)], "times that " .. id .. " was served")
    end
end


--- There is nothing in the gateway's log to worry about, and nothing left of wake sockets.
---@param gateway Gateway
---@param allowed string? pattern of a line that may be there
function _M.assert_clean(gateway, allowed)
    local log = gateway:error_log()
    for line in log:gmatch("[^\n]+") do
        local is_bad = line:find("[error]", 1, true) or line:find("[crit]", 1, true)
            or line:find("[alert]", 1, true) or line:find("[emerg]", 1, true)
        assert.is_true(not is_bad or line:find(allowed or "^$") ~= nil, line)
    end
    local before = gateway.wake_directories_before
    for name, pid in pairs(wake_directories(gateway.dir)) do
        local is_left = not before[name] and log:find("worker process " .. pid .. " ", 1, true)
        assert.is_false(is_left and true or false, name)
    end
end


--- Waits until there is no connection to the upstream, whoever had it.
---@param server InFlightServer
function _M.await_disconnected(server)
    local upstream = {}
    for _, name in ipairs({ "h1", "h2" }) do
        upstream[("0100007F:%04X"):format(server.vars[name])] = true
    end
    process.wait_until("no connection is left", function()
        -- In hexadecimal; 01 is ESTABLISHED.
        for remote in fs.read("/proc/net/tcp"):gmatch(": %x+:%x+ (%x+:%x+) 01 ") do
            if upstream[remote] then
                return false
            end
        end
        return true
    end)
end


--- How many files a process has open.
---@param pid integer
---@return integer
function _M.files_of(pid)
    local count = 0
    for name in lfs.dir("/proc/" .. pid .. "/fd") do
        count = count + (name:find("^%d+$") and 1 or 0)
    end
    return count
end


--- Waits until a master has so many files open: it closes those that lead to a worker a moment
--- after that has ended.
---@param pid integer
---@param count integer
function _M.await_files(pid, count)
    process.wait_until("process " .. pid .. " has " .. count .. " files open", function()
        return _M.files_of(pid) == count
    end)
end


return _M
