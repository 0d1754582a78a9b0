--- How much memory this process has.
local _M = {}


local function field(name)
    for line in io.lines("/proc/self/status") do
        local kilobytes = line:match("^" .. name .. ":%s+(%d+) kB")
        if kilobytes then
            return tonumber(kilobytes) / 1024
        end
    end
    error("no " .. name .. " in /proc/self/status")
end


--- The most that was resident so far.
---@return number megabytes
function _M.peak()
    return field("VmHWM")
end


return _M
