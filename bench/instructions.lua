--- `make bench-instructions`: instructions per request on a kept connection, counted by callgrind.
---
--- The number hardly depends on what else the machine does, so that small changes can be seen. It
--- is not a time: valgrind runs one thread at a time, and knows no AVX-512, as cryptography does.
local callgrind = require("bench.callgrind")
local fs = require("spec.support.fs")
local load = require("bench.load")
local nginx = require("spec.support.nginx")
local option_parser = require("bench.options")
local peers = require("bench.peer")
local process = require("spec.support.process")
local servers = require("bench.servers")

local CASE = "keepalive-1"
-- Of what is written by file, only that which matters.
local LEAST_SHARE = 0.01


local function say(...)
    io.write(string.format(...), "\n")
    io.flush()
end


-- Tells callgrind in a running process to forget or to write what it has counted.
local function control(gateway, option)
    process.check({ "callgrind_control", option, tostring(gateway:pid()) }, { timeout = 60 })
end


local function sum(counts)
    local total = 0
    for _, count in pairs(counts) do
        total = total + count
    end
    return total
end


local function report(by, main, others, calls)
    local total, rest = sum(main), 0
    for _, counts in ipairs(others) do
        rest = rest + sum(counts)
    end
    say("\n%-10s %8.0f on nginx's thread, %8.0f on others, %d requests", by, total / calls,
        rest / calls, calls)
    local names = {}
    for name, count in pairs(main) do
        names[#names + 1] = count >= total * LEAST_SHARE and name or nil
    end
    table.sort(names, function(a, b) return main[a] > main[b] end)
    for _, name in ipairs(names) do
        say("           %8.0f %s", main[name] / calls, name)
    end
end


local function count(upstream, peer, by, seconds)
    local folder = fs.temp_dir("callgrind")
    local options = servers.gateway_options(upstream, peer)
    options.under = { "valgrind", "--tool=callgrind", "--separate-threads=yes",
                      "--callgrind-out-file=" .. folder .. "/out" }
    local gateway = nginx.start(options)
    local query = "?case=" .. CASE .. "&by=" .. by
    gateway:get("/warm-up" .. query .. "&seconds=" .. seconds, { timeout = seconds + 60 })
    gateway:get("/state?forget=1")

    control(gateway, "-z")
    load.run("http://127.0.0.1:" .. gateway.port .. "/call" .. query, 1, seconds)
    control(gateway, "-d")
    local calls = tonumber(gateway:get("/state").body:match("calls=(%d+) failures=0 "))
    if not calls then
        error("calls failed\n" .. gateway:error_log():sub(-700), 0)
    end
    -- Under valgrind, nginx does not always hear of signals. What was counted is written by now.
    gateway.process:kill()

    local main, others = callgrind.dumps(folder)
    for i, text in ipairs(others) do
        others[i] = callgrind.by_object(text)
    end
    report(by, callgrind.by_object(main), others, calls)
end


local function main()
    if process.run({ "valgrind", "--version" }).code ~= 0 then
        error("valgrind is missing: apt-get install -y --no-install-recommends valgrind", 0)
    end
    local options = option_parser.parse(arg)
    local peer = options.peer and peers.find(options.peer, options.peer_deps)
    local upstream = servers.upstream()
    say("instructions per request, 1 KiB on a kept connection, 1 at a time")
    local names = { "floor", "ours" }
    names[#names + 1] = peer and "peer"
    names[#names + 1] = peer and peer.memoised and "memoised"
    for _, by in ipairs(names) do
        count(upstream, peer, by, options.seconds)
    end
    upstream:stop()
end


local ok, err = xpcall(main, function(err)
    return type(err) == "string" and err or debug.traceback(err)
end)
if not ok then
    io.stderr:write("\nCounting failed: ", tostring(err), "\n")
end
os.exit(ok and 0 or 1, true)
