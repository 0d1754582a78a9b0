--- The memory of another process: all of it, or what a core dump has.
local ffi = require("ffi")
local fs = require("spec.support.fs")
local lfs = require("lfs")
local posix = require("spec.support.posix")
local process = require("spec.support.process")

local _M = {}

ffi.cdef [[
    int open(const char *path, int flags, ...);
    int close(int fd);
    long pread(int fd, void *buffer, size_t count, long offset);
]]


-- Address and size of each range that can be read, and whether the kernel leaves it out of core
-- dumps.
local function ranges(pid)
    local list = {}
    local range
    for line in io.lines("/proc/" .. pid .. "/smaps") do
        local first, last, access = line:match("^(%x+)-(%x+) (%S+) ")
        if first then
            local address = tonumber(first, 16)
            range = { address = address, size = tonumber(last, 16) - address }
            -- Not the kernel's own pages.
            if access:sub(1, 1) == "r" and not line:find("[v", 1, true) then
                list[#list + 1] = range
            end
        elseif line:find("^VmFlags:") then
            range.is_left_out = line:find(" dd", 1, true) ~= nil
        end
    end
    return list
end


--- All bytes of a process, or those that the kernel would write to a core dump.
---@param pid integer
---@param without_left_out boolean?
---@return string
function _M.read(pid, without_left_out)
    local parts = {}
    local fd = ffi.C.open("/proc/" .. pid .. "/mem", 0)
    assert(fd >= 0, "cannot read the memory of process " .. pid)
    for _, range in ipairs(ranges(pid)) do
        if not (without_left_out and range.is_left_out) then
            local buffer = ffi.new("char[?]", range.size)
            local count = tonumber(ffi.C.pread(fd, buffer, range.size, range.address))
            if count > 0 then
                parts[#parts + 1] = ffi.string(buffer, count)
            end
        end
    end
    ffi.C.close(fd)
    return table.concat(parts)
end


-- Where the kernel puts core dumps, core(5): folder and name as a pattern of Lua; nil if it hands
-- them to a program.
local function place(pid, cwd)
    local pattern = fs.read("/proc/sys/kernel/core_pattern"):gsub("%s+$", "")
    if pattern:sub(1, 1) == "|" or pattern == "" then
        return nil
    end
    local folder, name = pattern:match("^(.*)/([^/]*)$")
    name = (name or pattern):gsub("[%^$().%[%]*+?-]", "%%%0")
    name = name:gsub("%%%%", "%%"):gsub("%%([%a])", function(letter)
        return (letter == "p" or letter == "P") and tostring(pid) or ".*"
    end)
    local folder_of_it = folder and (folder:sub(1, 1) == "/" and folder or cwd .. "/" .. folder)
    return folder_of_it or cwd, name
end


--- Ends a process such that it leaves a core dump, and returns that; what the kernel would write if
--- core dumps do not go to files here.
---@param child Process?
---@param pid integer? of a process that is not a child of this one
---@param cwd string its current directory
---@return string bytes
---@return boolean is_real
function _M.dump(child, pid, cwd)
    pid = pid or child.pid
    local folder, name = place(pid, cwd)
    local before = _M.read(pid, true)
    posix.kill(pid, "ABRT")
    process.wait_until("process " .. pid .. " has ended", function()
        if child then
            return not child:is_running()
        end
        return not fs.exists("/proc/" .. pid)
    end)
    if not folder or not fs.exists(folder) then
        return before, false
    end
    for file in lfs.dir(folder) do
        -- In a folder of its own the name need not tell whose it is.
        if file:find("^" .. name) and (file:find(pid, 1, true) or folder == cwd) then
            local path = folder .. "/" .. file
            local bytes = fs.read(path)
            os.remove(path)
            if bytes and bytes:sub(1, 4) == "\127ELF" then
                return bytes, true
            end
        end
    end
    return before, false
end


return _M
