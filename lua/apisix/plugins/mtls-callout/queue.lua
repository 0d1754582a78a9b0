--- Calls that a phase leaves behind which cannot wait for them. Each worker has its own.
--
-- Timers make them, a few at a time. What is over the bound is dropped and counted: a server that
-- does not answer must cost calls, and neither memory nor requests.

local core = require("apisix.core")

local max = math.max
local now = ngx.now
local pcall = pcall
local setmetatable = setmetatable
local timer_at = ngx.timer.at
local worker_exiting = ngx.worker.exiting


local _M = {}
local mt = { __index = _M }


-- Calls that wait, and calls that are being made.
local MAX_WAITING = 1000
local MAX_RUNNING = 4
-- Seconds between two lines in the log about calls that were dropped.
local REPORT_INTERVAL = 1
-- Seconds in which a timer that was asked for begins, if it does. nginx drops it without a word to
-- its owner where lua_max_running_timers is reached.
local START_TIME = 1
local TOO_SLOW = "as many as may are waiting: the endpoint is too slow, or does not answer"


---@class apisix.plugins.mtls_callout.queue
---@field make fun(call: table): boolean? whether it worked; tells the log itself

--- A queue of calls.
---@param make fun(call: table): boolean?
---@return apisix.plugins.mtls_callout.queue
function _M.new(make)
    return setmetatable({
        make = make,
        calls = {},
        first = 1,
        last = 0,
        starting = 0,
        asked = 0,
        running = 0,
        dropped = 0,
        reported = 0,
    }, mt)
end


local function take(self)
    local first = self.first
    if first > self.last then
        return nil
    end
    local call = self.calls[first]
    self.calls[first] = nil
    self.first = first + 1
    return call
end


local function report(self, reason)
    if self.dropped > 0 and now() - self.reported >= REPORT_INTERVAL then
        core.log.error("mtls-callout: ", self.dropped, " calls were dropped: ", reason)
        self.dropped = 0
        self.reported = now()
    end
end


-- A worker that exits waits for its timers, so that all that waits is still sent, as long as there
-- is somebody who takes it.
local function give_up(self)
    self.dropped = self.dropped + self.last - self.first + 1
    self.calls, self.first, self.last = {}, 1, 0
    self.reported = 0
    report(self, "the worker exits, and the endpoint does not take them")
end


local function run(_, self)
    self.starting = max(self.starting - 1, 0)
    self.running = self.running + 1
    local call = take(self)
    while call do
        local ok, worked = pcall(self.make, call)
        if not ok then
            core.log.error("mtls-callout: ", worked)
        end
        if not (ok and worked) and worker_exiting() then
            give_up(self)
        end
        call = take(self)
    end
    self.running = self.running - 1
    if self.running == 0 then
        -- Those since the last line in the log.
        self.reported = 0
        report(self, TOO_SLOW)
    end
end


--- Leaves a call behind. Needs no phase that can wait.
---@param call table
function _M:push(call)
    if self.last - self.first + 1 >= MAX_WAITING then
        self.dropped = self.dropped + 1
        report(self, TOO_SLOW)
        return
    end
    self.last = self.last + 1
    self.calls[self.last] = call
    if now() - self.asked > START_TIME then
        self.starting = 0
    end
    if self.running + self.starting < MAX_RUNNING then
        local ok, err = timer_at(0, run, self)
        if ok then
            self.starting = self.starting + 1
            self.asked = now()
        elseif self.running == 0 then
            -- The next call may find one.
            core.log.error("mtls-callout: no timer to make a call with: ", err)
        end
    end
end


return _M
