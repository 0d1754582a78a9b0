--- A port that takes no connections: the queue of those that nobody accepts is full.
---
---     local server = full_listener()
---     -- connect to server.port: there is no answer …
---     server:stop()
local socket = require("socket")


---@return { port: integer, stop: fun() }
return function()
    local listener = socket.tcp4()
    assert(listener:bind("127.0.0.1", 0))
    assert(listener:listen(0))
    local _, port = listener:getsockname()
    local queued = {}
    for i = 1, 20 do
        queued[i] = socket.tcp4()
        queued[i]:settimeout(0.3)
        local _, err = queued[i]:connect("127.0.0.1", port)
        if err == "timeout" then
            return { port = port, stop = function()
                for _, connection in ipairs(queued) do
                    connection:close()
                end
                listener:close()
            end }
        end
    end
    error("the queue does not get full")
end
