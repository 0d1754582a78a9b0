--- How much memory this process has.
local _M = {}


local function field(name)
    local file = assert(io.open("/proc/self/status"))
    local text = file:read("*a")
    -- At once: the specs count file descriptors.
    file:close()
    local kilobytes = text:match("\n" .. name .. ":%s+(%d+) kB")
    if not kilobytes then
        error("no " .. name .. " in /proc/self/status")
    end
    return tonumber(kilobytes) / 1024
end


--- The most that was resident so far.
---@return number megabytes
function _M.peak()
    return field("VmHWM")
end


--- What is resident now.
---@return number megabytes
function _M.resident()
    return field("VmRSS")
end


return _M
