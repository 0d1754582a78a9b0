--- Whether somebody opens a file, as the kernel tells.
local ffi = require("ffi")

local _M = {}

ffi.cdef [[
    int inotify_init1(int flags);
    int inotify_add_watch(int fd, const char *path, uint32_t mask);
    ssize_t read(int fd, void *buffer, size_t count);
]]

local NONBLOCK, OPEN = 0x800, 0x20
local SIZE = 4096


--- Watches a file.
---@param path string
---@return fun(): boolean was_opened since the last call
function _M.watch(path)
    local fd = ffi.C.inotify_init1(NONBLOCK)
    assert(fd >= 0 and ffi.C.inotify_add_watch(fd, path, OPEN) >= 0, "cannot watch " .. path)
    local buffer = ffi.new("char[?]", SIZE)
    return function()
        local was_opened = false
        while ffi.C.read(fd, buffer, SIZE) > 0 do
            was_opened = true
        end
        return was_opened
    end
end


return _M
