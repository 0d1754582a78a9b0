local peer = require("spec.support.peer")
local plain = require("spec.support.plain")

local HEAD = peer.receive_until("\r\n\r\n")
local EMPTY = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


-- What counts connections runs in a process of its own.
describe("the pool", function()
    local server

    local PRELUDE = [[
        local http = require("resty.mtls.http")
        local function connected()
            local httpc = http.new()
            assert(httpc:connect{ scheme = "http", host = "127.0.0.1", port = ${port} })
            return httpc
        end
        -- What is taken out of the pool is closed a moment later.
        local function wait_for_none()
            local system = require("system")
            local deadline = system.monotime() + 10
            local stats = http.stats()
            while stats.connections_idle + stats.connections_open > 0
                    and system.monotime() < deadline do
                system.sleep(0.005)
                stats = http.stats()
            end
            return stats.connections_idle .. " " .. stats.connections_open
        end
    ]]

    local function run(code)
        return plain.run_lua(PRELUDE .. code, { vars = { port = server.port } })
    end

    after_each(function() server:stop() end)

    before_each(function()
        server = peer.start({ script = { HEAD, EMPTY, peer.hang() } })
    end)

    it("keeps no more connections than its size", function()
        assert.equals("1 2 3 3 3\t3\n", run([[
            local clients, idle = {}, {}
            for i = 1, 5 do clients[i] = connected() end
            for i = 1, 5 do
                assert(clients[i]:set_keepalive(60000, 3) == 1)
                idle[i] = http.stats().connections_idle
            end
            print(table.concat(idle, " "), http.stats().connections_open)
        ]]))
    end)

    it("keeps 30 connections unless it is told how many", function()
        assert.equals("30\n", run([[
            local clients = {}
            for i = 1, 32 do clients[i] = connected() end
            for i = 1, 32 do assert(clients[i]:set_keepalive() == 1) end
            print(http.stats().connections_idle)
        ]]))
    end)

    it("closes connections that have been idle for their time", function()
        assert.equals("1\t0 0\n", run([[
            assert(connected():set_keepalive(20) == 1)
            print(http.stats().connections_idle, wait_for_none())
        ]]))
        server:wait_for_event("1 read: closed")
    end)

    it("does not hand out a connection that has been idle for its time", function()
        assert.equals("0\n", run([[
            assert(connected():set_keepalive(20) == 1)
            require("system").sleep(0.03)
            print(connected():get_reused_times())
        ]]))
    end)

    it("closes connections that the server closed", function()
        server:stop()
        server = peer.start({ script = { HEAD, EMPTY } })
        assert.equals("0 0\n", run([[
            local httpc = connected()
            assert(httpc:request{}):read_body()
            httpc:set_keepalive(60000)
            print(wait_for_none())
        ]]))
    end)

    it("closes what is left when its clients are collected", function()
        assert.equals("3\t0\n", run([[
            local clients = {}
            for i = 1, 3 do clients[i] = connected() end
            local open = http.stats().connections_open
            clients = nil
            collectgarbage()
            collectgarbage()
            print(open, http.stats().connections_open)
        ]]))
    end)
end)
