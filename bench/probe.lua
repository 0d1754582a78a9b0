--- How long others wait: `luajit bench/probe.lua PORT PATH SECONDS INTERVAL`
---
--- A request is due each INTERVAL seconds, whatever became of those before it, and goes out on a
--- connection of its own if those are still waiting: many clients that know nothing of each other.
--- wrk would send the next one after the answer to the last, and notice one slow request while the
--- worker stands still.
local socket = require("socket")
local statistics = require("bench.statistics")
local system = require("system")

local port, path, seconds, interval = ...
local request = "GET " .. path .. " HTTP/1.1\r\nHost: localhost\r\n\r\n"

-- Idle connections, and when the request was due that each of the others carries.
local idle, due_of = {}, {}
local latencies = {}


local function connect()
    local connection = assert(socket.connect("127.0.0.1", tonumber(port)))
    connection:setoption("tcp-nodelay", true)
    connection:settimeout(0)
    return connection
end


local function send(due)
    local connection = table.remove(idle) or connect()
    assert(connection:send(request))
    due_of[connection] = due
end


-- An answer is small, and comes in one piece.
local function receive(connection)
    local _, err, answer = connection:receive("*a")
    if err ~= "timeout" or not answer:find("^HTTP/1.1 200 .*\r\n\r\n") then
        error("bad answer: " .. tostring(err) .. " " .. tostring(answer), 0)
    end
    latencies[#latencies + 1] = system.monotime() - due_of[connection]
    due_of[connection] = nil
    idle[#idle + 1] = connection
end


local function receive_until(time)
    local waiting = {}
    for connection in pairs(due_of) do
        waiting[#waiting + 1] = connection
    end
    for _, connection in ipairs(socket.select(waiting, nil, math.max(0, time - system.monotime())))
    do
        receive(connection)
    end
end


local function probe()
    local start = system.monotime()
    for i = 1, math.floor(seconds / interval) do
        local due = start + i * interval
        repeat
            receive_until(due)
        until system.monotime() >= due
        send(due)
    end
    local deadline = system.monotime() + 30
    while next(due_of) do
        assert(system.monotime() < deadline, "no answer")
        receive_until(deadline)
    end
end


probe()
table.sort(latencies)
io.write(string.format("figures requests=%d errors=0 p50=%.9f p99=%.9f worst=%.9f\n", #latencies,
    statistics.percentile(latencies, 0.5), statistics.percentile(latencies, 0.99),
    latencies[#latencies]))
