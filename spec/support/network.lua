--- A network of two hosts that can be cut: two namespaces that a pair of interfaces joins.
---
---     local network, reason = network.join()     this process is the near host from now on
---     network:far(function() … end)              what is started here runs on the far host
---     network:cut("link")                        packets vanish, and nobody is told
---     network:mend()
---     network:leave()
---
--- Namespaces without a name are gone when nobody is in them. It takes root, and iproute2.
local ffi = require("ffi")
local process = require("spec.support.process")

local _M = {}

--- Addresses for documentation (RFC 5737).
_M.NEAR, _M.FAR = "192.0.2.1", "192.0.2.2"

ffi.cdef [[
    int unshare(int flags);
    int setns(int fd, int type);
    int open(const char *path, int flags, ...);
    int close(int fd);
    int getpid(void);
    char *strerror(int number);
]]

local CLONE_NEWNET = 0x40000000
local O_RDONLY_CLOEXEC = 0x80000

---@class Network
---@field home integer descriptor of the namespace that this process was in
---@field near integer?
---@field away integer? of the far host
---@field broken string? how it has been cut
local Network = {}
Network.__index = Network


local function current()
    local fd = ffi.C.open("/proc/self/ns/net", O_RDONLY_CLOEXEC)
    assert(fd >= 0, "no /proc/self/ns/net")
    return fd
end


local function enter(fd)
    assert(ffi.C.setns(fd, CLONE_NEWNET) == 0, "cannot enter a network namespace")
end


local function ip(arguments)
    local argv = { "ip" }
    for argument in arguments:gmatch("%S+") do
        argv[#argv + 1] = argument
    end
    return process.check(argv)
end


-- In a namespace of its own from now on.
local function make()
    if ffi.C.unshare(CLONE_NEWNET) ~= 0 then
        error(ffi.string(ffi.C.strerror(ffi.errno())), 0)
    end
    ip("link set lo up")
    return current()
end


local function connect(self)
    self.away, self.near = make(), make()
    ip(("link add near0 type veth peer name far0 netns /proc/%d/fd/%d"):format(
        ffi.C.getpid(), self.away))
    ip("addr add " .. _M.NEAR .. "/24 dev near0")
    ip("link set near0 up")
    self:far(function()
        ip("addr add " .. _M.FAR .. "/24 dev far0")
        ip("link set far0 up")
    end)
    -- Who has no neighbour to ask is told that the host cannot be reached. Here, nobody is told.
    local mac = self:far(function() return ip("link show far0"):match("link/ether (%S+)") end)
    ip(("neigh replace %s lladdr %s dev near0 nud permanent"):format(_M.FAR, mac))
end


--- Makes the two hosts. This process, and what it starts, is on the near one until it leaves.
---@return Network? network nil where that cannot be done
---@return string? reason
function _M.join()
    local self = setmetatable({ home = current() }, Network)
    local ok, err = pcall(connect, self)
    if not ok then
        self:leave()
        return nil, "no network of one's own to be had: " .. tostring(err)
    end
    return self
end


--- Does something on the far host.
---@generic T
---@param action fun(): T
---@return T
function Network:far(action)
    enter(self.away)
    local ok, result = pcall(action)
    enter(self.near)
    if not ok then
        error(result, 0)
    end
    return result
end


local CUTS = {
    -- Of the far end, so that the near one has its routes still.
    link = { "link set far0 down", "link set far0 up" },
    address = { "addr del " .. _M.FAR .. "/24 dev far0", "addr add " .. _M.FAR .. "/24 dev far0" },
}


--- Lets all packets vanish.
---@param how "link"|"address" what of the far host is taken away
function Network:cut(how)
    self:far(function() ip(CUTS[how][1]) end)
    self.broken = how
end


--- Undoes the cut.
function Network:mend()
    local how = self.broken
    self:far(function() ip(CUTS[how][2]) end)
    self.broken = nil
end


--- Goes back to where this process was.
function Network:leave()
    -- Who could not leave may not enter either.
    if self.away then
        enter(self.home)
    end
    for _, fd in pairs({ self.home, self.near, self.away }) do
        ffi.C.close(fd)
    end
end


return _M
