--- Connections whose number is bounded with `pool_size` and `backlog`: an upstream, and what the
--- chunks of a spec begin with.
local nginx = require("spec.support.nginx")
local prelude = require("spec.support.prelude")

local _M = {}

--- Needs `vars = { up = port }`. The connections of each `connect` are bounded.
---
---     connect(size, backlog, timeout)     a client, or nil and what connect said
---     connecting(size, backlog, timeout)  a light thread that does this
---     waiting(count)                      until so many operations are in flight
---     body(httpc, path)                   of a response
_M.TOOLS = prelude .. [[
    local host = "localhost"

    local function client(timeout)
        local httpc = http.new()
        httpc:set_timeout(timeout or 10000)
        return httpc
    end

    local function options(size, backlog)
        return { scheme = "http", host = host, port = ${up}, pool_size = size, backlog = backlog }
    end

    local function connect(size, backlog, timeout)
        local httpc = client(timeout)
        local ok, err, details = httpc:connect(options(size, backlog))
        if not ok then
            return nil, err, details
        end
        return httpc
    end

    -- A light thread that connects; its second value is the client, or nil and the error.
    local function connecting(...)
        return ngx.thread.spawn(connect, ...)
    end

    local function waiting(count)
        return wait_until(function() return stats().operations_in_flight == count end)
    end

    local function body(httpc, path)
        local res = assert(httpc:request({ path = path }))
        return (assert(res:read_body()))
    end
]]


--- Starts an upstream with some more pages.
---
---     /active      how many connections it has
---     /silent      no response for three seconds
---     /unfinished  a part of a response, and for three seconds no more; like /silent it ends when
---                  the client goes, unless that is before nginx looks
---     /close       a response after which the connection is closed
---@return Upstream
function _M.upstream()
    return nginx.upstream({ server = [[
        location = /active {
            content_by_lua_block {
                ngx.sleep(0.01)
                ngx.print(ngx.var.connections_active)
            }
        }
        location = /silent {
            lua_check_client_abort on;
            content_by_lua_block { ngx.sleep(3) }
        }
        location = /unfinished {
            lua_check_client_abort on;
            content_by_lua_block {
                ngx.print("some")
                ngx.flush(true)
                ngx.sleep(3)
            }
        }
        location = /close {
            keepalive_timeout 0;
            return 200 "bye";
        }
    ]] })
end


return _M
