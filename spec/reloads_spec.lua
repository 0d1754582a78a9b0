--- A hundred reloads and a hundred quits of a gateway that has calls in flight. Which they are is
--- decided by gates of the upstream, and not by time.
local fs = require("spec.support.fs")
local groups = require("spec.support.groups")
local in_flight_server = require("spec.support.in_flight_server")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local ROUNDS = 100
-- Gateways that quit at the same time.
local AT_ONCE = 4
-- Bytes; more than an HTTP/2 stream and a socket take at once.
local UPLOAD = 100000

local CALLS = [[
    location = /call {
        content_by_lua_block {
            ]] .. in_flight_server.CHUNK .. [[
            local args = ngx.req.get_uri_args()
            local request = { path = args.path .. "?id=" .. args.id .. "&gate=" .. args.gate }
            if args.n ~= "0" then
                request.method, request.body = "POST", ("x"):rep(tonumber(args.n))
            end
            local outcome = in_flight.call(targets[args.v == "1" and 1 or 2], request)
            if outcome.kept ~= 1 then
                ngx.log(ngx.ERR, cjson.encode(outcome))
            end
            ngx.print(outcome.body or outcome.err)
        }
    }
]]

local server, last_id, told = nil, 0, {}


before_each(function() server = in_flight_server.start() end)
after_each(function() server:stop() end)

teardown(function() io.stdout:write(table.concat(told)) end)


local function tell(...)
    told[#told + 1] = string.format(...) .. "\n"
end


local function start(workers)
    return nginx.gateway({ server = CALLS, vars = server.vars, workers = workers,
                           log_level = "notice" })
end


-- Sends a call of each kind, some of them more than once. What this returns waits for the answers,
-- and gives their number.
local function send_calls(gateway, path, gate)
    local exchanges = {}
    for _, version in ipairs({ "1", "1", "2", "2" }) do
        for _, size in ipairs({ 0, UPLOAD }) do
            last_id = last_id + 1
            exchanges[last_id] = {
                expected = ("%s %d %d"):format(path:sub(2), last_id, size),
                exchange = gateway:send(("/call?path=%s&id=%d&gate=%s&v=%s&n=%d"):format(
                    path, last_id, gate, version, size)),
            }
        end
    end
    return function()
        local count = 0
        for _, sent in pairs(exchanges) do
            local response = assert(sent.exchange:receive())
            assert.equals(sent.expected, response.body)
            assert.equals(200, response.status)
            count = count + 1
        end
        return count
    end
end


-- The upstream has answered each id once.
local function assert_served_once(first, last)
    local counts, total
    process.wait_until("all are in the upstream's log", function()
        counts, total = server:served()
        return total >= last - first + 1
    end)
    assert.equals(last - first + 1, total)
    for id = first, last do
        assert.equals(1, counts[tostring(id)], "times that " .. id .. " was served")
    end
end


local function assert_clean(gateway)
    local log = gateway:error_log()
    for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
        assert.is_nil(log:match("[^\n]*%[" .. level .. "%][^\n]*"))
    end
    assert.not_matches("exited on signal", log)
    -- Wake sockets are below one of these, with the pid of their worker in their names.
    for _, parent in ipairs({ "/dev/shm", "/tmp", os.getenv("TMPDIR") or "/tmp", gateway.dir }) do
        for name in lfs.dir(parent) do
            local pid = name:match("^resty%-mtls%-(%d+)%-")
            assert.is_nil(pid and log:match("worker process " .. pid .. " ") and name)
        end
    end
end


-- Connections to the upstream that are there, as the kernel tells in hexadecimal: 01 is ESTABLISHED.
local function connections()
    local wanted, count = {}, 0
    for _, name in ipairs({ "h1", "h2" }) do
        wanted[("0100007F:%04X"):format(server.vars[name])] = true
    end
    for remote in fs.read("/proc/net/tcp"):gmatch(": %x+:%x+ (%x+:%x+) 01 ") do
        count = count + (wanted[remote] and 1 or 0)
    end
    return count
end


local function files_of(pid)
    local count = 0
    for name in lfs.dir("/proc/" .. pid .. "/fd") do
        count = count + (name:find("^%d+$") and 1 or 0)
    end
    return count
end


describe("a hundred reloads under load", function()
    it("lose no response, and leave nothing behind", function()
        local gateway = start(2)
        finally(function() gateway.process:kill() end)
        gateway:reload()
        local function await_old_workers()
            process.wait_until("the old workers are gone", function()
                return #groups.members(gateway:pid()) == 3
            end, 30)
        end
        await_old_workers()
        local files, first, answers, waiting = files_of(gateway:pid()), last_id + 1, 0, {}
        for round = 1, ROUNDS do
            waiting[#waiting + 1] = { gate = round, receive = send_calls(gateway, "/gated", round) }
            server:await_gate(round, 8)
            local quick = send_calls(gateway, "/taken", "none")
            gateway:reload()
            answers = answers + quick() + send_calls(gateway, "/taken", "none")()
            -- Old workers of three generations have calls in flight.
            if #waiting > 2 or round == ROUNDS then
                repeat
                    local oldest = table.remove(waiting, 1)
                    server:release(oldest.gate)
                    answers = answers + oldest.receive()
                until round < ROUNDS or #waiting == 0
            end
        end
        await_old_workers()
        assert.equals(24 * ROUNDS, answers)
        assert_served_once(first, last_id)
        assert.equals(files, files_of(gateway:pid()))
        gateway:stop()
        process.wait_until("no connection is left", function() return connections() == 0 end)
        assert_clean(gateway)
        tell("reloads: %d, calls answered once each: %d", ROUNDS, answers)
    end)
end)


describe("a hundred quits under load", function()
    it("lose no response, and leave nothing behind", function()
        local first, answers, quits = last_id + 1, 0, 0
        for round = 1, ROUNDS / AT_ONCE do
            local gateways, receive = {}, {}
            for i = 1, AT_ONCE do
                gateways[i] = start(1)
                receive[i] = send_calls(gateways[i], "/taken", "none")
            end
            for i, gateway in ipairs(gateways) do
                answers = answers + receive[i]()
                receive[i] = send_calls(gateway, "/gated", round)
            end
            server:await_gate(round, 8 * AT_ONCE)
            for _, gateway in ipairs(gateways) do
                gateway:quit()
            end
            for _, gateway in ipairs(gateways) do
                gateway:wait_for_log("gracefully shutting down")
            end
            server:release(round)
            for i, gateway in ipairs(gateways) do
                answers = answers + receive[i]()
                assert.equals(0, gateway.process:wait())
                assert.same({}, groups.members(gateway:pid()))
                assert_clean(gateway)
                quits = quits + 1
            end
        end
        assert.equals(16 * ROUNDS, answers)
        assert_served_once(first, last_id)
        process.wait_until("no connection is left", function() return connections() == 0 end)
        tell("quits: %d, calls answered once each: %d", quits, answers)
    end)
end)
