--- Calls of every kind that are on their way when something happens: made where the library runs.
---
---     local calls = in_flight.begin(targets, 3)     three of each kind to each target
---     …                                             something happens
---     local outcomes = calls:wait()                 what became of them, counted
---
--- The upstream's part is in_flight_server.lua.
local ffi = require("ffi")
local http = require("resty.mtls.http")

local _M = {}

ffi.cdef("long readlink(const char *path, char *target, size_t size);")

--- What a call waits for, by name: where the upstream stops, and what is sent there.
_M.KINDS = {
    head = { path = "/held" },
    body = { path = "/half" },
    -- More than fits into the buffers of sockets and of an HTTP/2 stream.
    upload = { path = "/unread", upload = 16 * 1024 * 1024 },
    -- The upstream answers these when it is told to.
    gated = { path = "/gated", expected = "gated %d 0" },
    gated_upload = { path = "/gated", upload = 100000, expected = "gated %d 100000" },
}

---@class Target
---@field name string
---@field options table of `connect`
---@field timeouts integer[] of `set_timeouts`

---@class Calls
---@field threads table[]
local Calls = {}
Calls.__index = Calls


--- Whether the condition came true, soon enough.
---@param condition fun(): any
---@param seconds number? 20 unless given
---@return boolean
function _M.wait_until(condition, seconds)
    for _ = 1, (seconds or 20) * 100 do
        if condition() then
            return true
        end
        if ngx then
            ngx.sleep(0.01)
        else
            os.execute("sleep 0.01")
        end
    end
    return false
end


--- Waits until a file is there.
---@param path string
---@return boolean
function _M.wait_for_file(path)
    return _M.wait_until(function()
        local file = io.open(path)
        return file and file:close()
    end)
end


local function failed(at, err, details)
    details = details or {}
    return { at = at, err = err, code = details.code, stage = details.stage, hint = details.hint }
end


local function now()
    if not ngx then
        return os.time()
    end
    ngx.update_time()
    return ngx.now()
end


--- One call, with a client of its own or with one that is connected.
---@param target Target
---@param request table of `request`
---@param httpc table?
---@return table outcome `at` is the step that failed, or "done"
function _M.call(target, request, httpc)
    local ok, err, details, res, body
    if not httpc then
        httpc = http.new()
        httpc:set_timeouts(unpack(target.timeouts))
        ok, err, details = httpc:connect(target.options)
        if not ok then
            return failed("connect", err, details)
        end
    end
    local reused = httpc:get_reused_times()
    res, err, details = httpc:request(request)
    if not res then
        httpc:close()
        return failed("request", err, details)
    end
    body, err, details = res:read_body()
    if not body then
        httpc:close()
        return failed("body", err, details)
    end
    return { at = "done", status = res.status, body = body, reused = reused,
             kept = httpc:set_keepalive() }
end


local function timed(...)
    local started = now()
    local outcome = _M.call(...)
    outcome.seconds = now() - started
    return outcome
end


--- A call that has to be answered with its own id.
---@param target Target
---@param id string|integer
---@return string? answered "new" or "reused", which is the connection
---@return string? err
function _M.echo(target, id)
    local outcome = _M.call(target, { path = "/echo?id=" .. id })
    if outcome.at ~= "done" then
        return nil, ("%s %s"):format(outcome.at, outcome.code)
    elseif outcome.status ~= 200 or outcome.body ~= "echo " .. id then
        return nil, "mixed up: " .. outcome.status .. " " .. outcome.body
    end
    return outcome.reused > 0 and "reused" or "new"
end


--- Begins so many calls of each kind to each target.
---@param targets Target[]
---@param count integer
---@param kinds string[]? names of KINDS; head, body and upload unless given
---@param gate string|integer|nil
---@return Calls
function _M.begin(targets, count, kinds, gate)
    local threads = {}
    for _, target in ipairs(targets) do
        for _, name in ipairs(kinds or { "head", "body", "upload" }) do
            local kind = _M.KINDS[name]
            for i = 1, count do
                local request = { path = ("%s?id=%d&gate=%s"):format(kind.path, i, gate) }
                if kind.upload then
                    request.method, request.body = "POST", ("x"):rep(kind.upload)
                end
                threads[#threads + 1] = {
                    expected = kind.expected and kind.expected:format(i),
                    name = target.name .. " " .. name,
                    thread = ngx.thread.spawn(timed, target, request),
                }
            end
        end
    end
    return setmetatable({ threads = threads }, Calls)
end


--- Takes those of others in.
---@param others Calls
function Calls:add(others)
    for _, call in ipairs(others.threads) do
        self.threads[#self.threads + 1] = call
    end
end


--- Waits for all of them.
---@return table<string, integer> counts by "target kind: at code stage"
---@return table[] outcomes
function Calls:wait()
    local counts, outcomes = {}, {}
    for i, call in ipairs(self.threads) do
        local ok, outcome = ngx.thread.wait(call.thread)
        assert(ok, outcome)
        if outcome.at == "done" then
            assert(outcome.body == call.expected, outcome.body)
        end
        local what = ("%s: %s %s %s"):format(call.name, outcome.at, outcome.code, outcome.stage)
        assert(outcome.at == "done" or outcome.hint, what .. " does not say what to do")
        counts[what] = (counts[what] or 0) + 1
        outcomes[i] = outcome
    end
    return counts, outcomes
end


---@class Load light threads that make calls until they are stopped, and look at each answer
---@field phase string what the spec does now: calls are counted under that in which they began
---@field failed table<string, integer> by "phase-phase in which it ended: method at code"
---@field wrong string[] answers that were not right
---@field good integer
local Load = {}
Load.__index = Load

-- What each light thread asks for in turn, and what it has to get. An id has eight digits at most.
local REQUESTS = {
    function(id)
        return { method = "GET", path = "/echo?id=" .. id }, "echo " .. id
    end,
    function(id)
        local body = ("%08d"):format(id):rep(40000)
        return { method = "GET", path = "/bytes?n=320000&id=" .. id }, body
    end,
    function(id)
        local body = ("x"):rep(100000 + id % 1000)
        return { method = "PUT", path = "/taken?id=" .. id, body = body },
            "taken " .. id .. " " .. #body
    end,
}


local function make_calls(load, target, loop, number)
    local id = number * 100000
    while not load.stopped do
        id = id + 1
        local request, expected = REQUESTS[id % #REQUESTS + 1](id)
        local phase = load.phase
        local outcome = _M.call(target, request)
        if outcome.at ~= "done" then
            local what = ("%s-%s: %s %s %s"):format(phase, load.phase, request.method, outcome.at,
                                                    outcome.code)
            load.failed[what] = (load.failed[what] or 0) + 1
            loop.failed[phase] = (loop.failed[phase] or 0) + 1
            -- Where nothing listens, an error comes at once.
            ngx.sleep(0.01)
        elseif outcome.status ~= 200 or outcome.body ~= expected then
            load.wrong[#load.wrong + 1] = ("%s %s: %d, %d bytes of %d"):format(
                request.method, request.path, outcome.status, #outcome.body, #expected)
        else
            load.good = load.good + 1
            loop.good[phase] = (loop.good[phase] or 0) + 1
        end
    end
end


--- Starts so many light threads for each target.
---@param targets Target[]
---@param count integer
---@return Load
function _M.load(targets, count)
    local load = { phase = "first", failed = {}, wrong = {}, good = 0, loops = {} }
    setmetatable(load, Load)
    for _, target in ipairs(targets) do
        for _ = 1, count do
            local loop = { good = {}, failed = {} }
            table.insert(load.loops, loop)
            loop.thread = ngx.thread.spawn(make_calls, load, target, loop, #load.loops)
        end
    end
    return load
end


local function await(load, outcomes, count)
    local ok = _M.wait_until(function()
        for _, loop in ipairs(load.loops) do
            if (loop[outcomes][load.phase] or 0) < count then
                return false
            end
        end
        return true
    end)
    if not ok then
        error(("not %d %s calls in phase %s of each"):format(count, outcomes, load.phase))
    end
end


--- Begins another phase, and waits until each light thread has had so many right answers in it.
---@param phase string
---@param count integer
function Load:enter(phase, count)
    self.phase = phase
    await(self, "good", count)
end


--- Begins another phase, and waits until a call of each light thread has failed in it.
---@param phase string
function Load:enter_failing(phase)
    self.phase = phase
    await(self, "failed", 1)
end


--- Ends it.
function Load:stop()
    self.stopped = true
    for _, loop in ipairs(self.loops) do
        assert(ngx.thread.wait(loop.thread))
    end
end


--- Waits until nothing is left of calls, but for idle connections.
---@return boolean
function _M.settled()
    return _M.wait_until(function()
        local stats = http.stats()
        return stats.operations_in_flight == 0 and stats.requests_in_flight == 0
            and stats.connections_open == stats.connections_idle
    end)
end


--- Waits until the process has no more files open than that. The dispatcher, and connections of
--- nginx, go a moment later.
---@param count integer
---@return boolean
function _M.has_files(count)
    return _M.wait_until(function() return select(2, _M.files()) <= count end)
end


--- The files that this process has open.
---@return table<integer, string> targets by descriptor
---@return integer count
function _M.files()
    local files, count, target = {}, 0, ffi.new("char[256]")
    for fd = 0, 1023 do
        local length = ffi.C.readlink("/proc/self/fd/" .. fd, target, 256)
        if length > 0 then
            files[fd], count = ffi.string(target, length), count + 1
        end
    end
    return files, count
end


return _M
