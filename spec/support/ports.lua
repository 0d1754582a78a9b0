--- Free loopback ports.
local socket = require("socket")
local system = require("system")

local _M = {}

-- Below the range that the kernel takes the ports of outgoing connections from: one of those could
-- otherwise sit on the port by the time the server binds it.
local FIRST, LAST = 15000, 32000

-- Runs at the same time start from different places.
local next_port = FIRST + math.floor(system.gettime() * 1e4) % (LAST - FIRST)


--- Whether a server can listen there.
---@param port integer
---@return boolean
function _M.is_free(port)
    local server = socket.tcp4()
    local ok = server:setoption("reuseaddr", true) and server:bind("127.0.0.1", port)
    server:close()
    return ok ~= nil
end


--- A port that nobody listens on. Never the same one twice in a process.
---@return integer port
function _M.free()
    for _ = FIRST, LAST do
        local port = next_port
        next_port = port < LAST and port + 1 or FIRST
        if _M.is_free(port) then
            return port
        end
    end
    error("no free port on the loopback")
end


--- Whether there is a loopback address of IPv6: containers often have none.
---@return boolean
function _M.has_ipv6()
    local server = socket.tcp6()
    local ok = server and server:bind("::1", 0)
    if server then
        server:close()
    end
    return ok ~= nil
end


return _M
