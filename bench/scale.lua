--- `make bench-scale`: one worker with thousands of idle connections, and of requests in flight.
---
---     --idle=10000                     connections in the pool
---     --in-flight=2000                 requests that the upstream holds at the same time
---     --instructions=1,100,1000,2000   in flight while instructions of others are counted
---
--- Memory is what the kernel says that the worker has in it (VmRSS), before and while: all is in it
--- that comes with a connection or a request, the library's, Lua's, and what allocators keep.
--- Instructions are those of a request that passes by those in flight; callgrind counts them.
local callgrind = require("bench.callgrind")
local fs = require("spec.support.fs")
local machine = require("bench.machine")
local process = require("spec.support.process")
local scale = require("spec.support.scale")

-- Requests whose instructions are counted; a few more come before, for LuaJIT to compile.
local COUNTED = 300
-- Sockets beside those that are counted: of nginx, and of requests that pass by.
local SPARE = 512

local PASS = [[
    local options = options_of("%s")
    for _ = 1, %d do
        local httpc = http.new()
        assert(httpc:connect(options))
        assert(ask(httpc, "/echo"):find("CN=client-a", 1, true))
        assert(httpc:set_keepalive(86400000, 100000) == 1)
    end
]]

-- Under valgrind all takes long. Timers are requests of their own to nginx, so that it has no long
-- list of light threads in one of them.
local PREPARE = [[
    patience = 3600
    local version, idle, flying = "%s", %d, %d
    local options = options_of(version)
    local clients = {}
    each(idle, 16, function(i) clients[i] = connected(options) end)
    for i = 1, idle do
        assert(clients[i]:set_keepalive(86400000, 100000) == 1)
    end
    for i = 1, flying do
        assert(ngx.timer.at(0, function()
            local httpc = http.new()
            httpc:set_timeout(86400000)
            assert(httpc:connect(options))
            ask(httpc, "/held?id=" .. i)
        end))
        if i %% 16 == 0 or i == flying then
            assert(are_held(i))
        end
    end
]]


local function say(...)
    io.write(string.format(...), "\n")
    io.flush()
end


local function options_of(arguments)
    local options = { idle = "10000", in_flight = "2000", instructions = "1,100,1000,2000" }
    for _, argument in ipairs(arguments) do
        local name, value = argument:match("^%-%-([%a-]+)=([%d,]*)$")
        name = (name or ""):gsub("-", "_")
        if not options[name] then
            error("unknown option: " .. argument, 0)
        end
        options[name] = value
    end
    local steps = {}
    for number in options.instructions:gmatch("%d+") do
        steps[#steps + 1] = tonumber(number)
    end
    return { idle = tonumber(options.idle), in_flight = tonumber(options.in_flight),
             instructions = steps }
end


local function figures(servers, chunk)
    local named = {}
    for name, value in servers:run(chunk, 600):gmatch("(%w+)=([%d.-]+)") do
        named[name] = tonumber(value)
    end
    return named
end


-- A gateway of its own, which has no memory left of another measurement.
local function memory_row(title, count, chunk, connections)
    local servers = scale.start({ connections = connections + SPARE })
    local seen = figures(servers, chunk)
    local later = figures(servers, scale.LATER)
    servers:stop()
    say("%-36s %6.1f %6.1f  %8.1f %8.1f %8.1f   %d", title, seen.each / 1024, seen.lua / 1024,
        seen.before / 1024, seen.most / 1024, later.after / 1024, seen.left)
    if seen.passed then
        say("%36s %d of 50 requests passed by, %d of %d answered with %d wakes, %d connections", "",
            seen.passed, seen.answered, count, seen.wakes, seen.connections)
    end
end


local function memory_table(options)
    say("\n%-36s %s", "", "  KiB each, of    RSS of the worker in MiB    left")
    say("%-36s %6s %6s  %8s %8s %8s", "", "it all", "Lua's", "before", "while", "after")
    memory_row(options.idle .. " idle connections", options.idle,
               scale.IDLE:format(options.idle), options.idle)
    for _, version in ipairs({ "h1", "h2" }) do
        local title = string.format("%d requests in flight, %s", options.in_flight,
                                    version == "h1" and "HTTP/1.1" or "HTTP/2")
        memory_row(title, options.in_flight, scale.IN_FLIGHT:format(version, options.in_flight),
                   2 * options.in_flight)
    end
end


local function control(servers, option)
    process.check({ "callgrind_control", option, tostring(servers.gateway:pid()) },
                  { timeout = 120 })
end


local function sum(text)
    local total = 0
    for _, count in pairs(callgrind.by_object(text)) do
        total = total + count
    end
    return total
end


local function instructions_row(version, idle, flying)
    local folder = fs.temp_dir("callgrind")
    local servers = scale.start({
        connections = idle + 2 * flying + SPARE,
        under = { "valgrind", "--tool=callgrind", "--separate-threads=yes",
                  "--callgrind-out-file=" .. folder .. "/out" },
    })
    servers:run(PREPARE:format(version, idle, flying), 3600)
    servers:run(PASS:format(version, COUNTED), 600)
    control(servers, "-z")
    servers:run(PASS:format(version, COUNTED), 600)
    control(servers, "-d")
    -- Under valgrind, nginx does not always hear of signals, and the upstream still holds requests.
    servers:kill()
    local main, others = callgrind.dumps(folder)
    local rest = 0
    for _, text in ipairs(others) do
        rest = rest + sum(text)
    end
    say("%-10s %8d %10d %16.0f %18.0f", version == "h1" and "HTTP/1.1" or "HTTP/2", idle, flying,
        sum(main) / COUNTED, rest / COUNTED)
end


local function instructions_table(options)
    if #options.instructions == 0 or process.run({ "valgrind", "--version" }).code ~= 0 then
        say("\nWithout valgrind, or numbers of requests, instructions are not counted.")
        return
    end
    say("\nInstructions of a request on a kept connection, beside others:\n")
    say("%-10s %8s %10s %16s %18s", "", "idle", "in flight", "nginx's thread", "background thread")
    for _, version in ipairs({ "h1", "h2" }) do
        for _, flying in ipairs(options.instructions) do
            instructions_row(version, 0, flying)
        end
    end
    instructions_row("h1", math.min(options.idle, 2000), 1)
end


local function main()
    local options = options_of(arg)
    for _, fact in ipairs(machine.describe()) do
        say("%-12s %s", fact.name, fact.value)
    end
    memory_table(options)
    instructions_table(options)
end


local ok, err = xpcall(main, function(err)
    return type(err) == "string" and err or debug.traceback(err)
end)
if not ok then
    io.stderr:write("\nMeasuring failed: ", tostring(err), "\n")
end
os.exit(ok and 0 or 1, true)
