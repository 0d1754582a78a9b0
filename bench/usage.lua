--- What a process has used, as the kernel counts it.
local ffi = require("ffi")
local fs = require("spec.support.fs")

local _M = {}

ffi.cdef [[
    typedef struct { long seconds, nanoseconds; } bench_time;
    int clock_getcpuclockid(int pid, int *clock);
    int clock_gettime(int clock, bench_time *time);
]]


--- Seconds of CPU of all threads, those that have ended as well.
---@param pid integer
---@return number
local function of_process(pid)
    local clock, time = ffi.new("int[1]"), ffi.new("bench_time")
    assert(ffi.C.clock_getcpuclockid(pid, clock) == 0, "no such process: " .. pid)
    assert(ffi.C.clock_gettime(clock[0], time) == 0)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end


--- Seconds of CPU of the first thread: in a worker of nginx, nginx's own.
---@param pid integer
---@return number
local function of_main_thread(pid)
    local text = assert(fs.read("/proc/" .. pid .. "/task/" .. pid .. "/schedstat"))
    return tonumber(text:match("^%d+")) / 1e9
end


---@param pid integer
---@return { all: number, main: number } seconds
function _M.cpu(pid)
    return { all = of_process(pid), main = of_main_thread(pid) }
end


local function status(pid, field)
    local text = assert(fs.read("/proc/" .. pid .. "/status"))
    return tonumber(text:match("\n" .. field .. ":%s*(%d+) kB")) * 1024
end


--- Forgets the peak so far.
---@param pid integer
---@return integer bytes in memory now
function _M.reset_peak(pid)
    -- 5 resets VmHWM; see proc(5).
    fs.overwrite("/proc/" .. pid .. "/clear_refs", "5")
    return status(pid, "VmRSS")
end


---@param pid integer
---@return integer bytes that were in memory at most since reset_peak
function _M.peak(pid)
    return status(pid, "VmHWM")
end


return _M
