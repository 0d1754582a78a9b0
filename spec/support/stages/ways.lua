--- The part of stages_spec.lua that lives inside nginx: ends a call in each of several ways while
--- it is at a stage, and looks for what is left of it.
---
---     local failure, count = stages.run({ work = function(httpc, run) … end, … })
---
--- A stage has
---
---     work(httpc, run)   makes the call; what it returns is what connect or request return
---     told(run)          how often servers have said that a call is there; without it, that an
---                        operation is in flight will do
---     before(run)        prepares; it may return a function that undoes this (optional)
---     after(run)         begins when the call is there, and returns a function that waits for its
---                        end, which returns what is wrong (optional)
---     rests              at this stage nothing is waited for: `work` has come to its end
---     says_so            `work` sets `run.is_there`
---     ends               the time-out that ends the stage: "connect", "send" or "read"
---     code, stage        of the error then
---     deadline           whether `work` takes one from `run`
---     get(httpc)         a call that has to succeed afterwards, with a client of its own unless
---                        one is given
local http = require("resty.mtls.http")
local lfs = require("lfs")
local memory = require("spec.support.memory")
local semaphore = require("ngx.semaphore")

local _M = {}

-- Milliseconds: the time-out that ends a stage, and those that do not.
_M.SHORT, _M.LONG = 200, 30000

-- Seconds to wait for what has to come.
local PATIENCE = 10

-- Calls of `kill_many`.
local AT_A_TIME = 20

-- What nginx's request to /victim is to carry.
local carried
local runs = 0
local fds_at_first


local function wait_until(condition)
    for _ = 1, PATIENCE / 0.002 do
        if condition() then
            return true
        end
        ngx.sleep(0.002)
    end
    return false
end


-- What calls have in hand: an idle connection is in nobody's.
local function in_hand()
    local stats = http.stats()
    return { operations = stats.operations_in_flight, requests = stats.requests_in_flight,
             connections = stats.connections_open - stats.connections_idle }
end


-- Waits until no more is in hand than that. What is left if that does not come.
local function left_over(allowed)
    local now
    local is_clean = wait_until(function()
        collectgarbage()
        now = in_hand()
        return now.operations == allowed.operations and now.requests == allowed.requests
            and now.connections == allowed.connections
    end)
    if not is_clean then
        return ("left: %d operations, %d requests, %d connections, not %d, %d, %d"):format(
            now.operations, now.requests, now.connections,
            allowed.operations, allowed.requests, allowed.connections)
    end
end


local function open_fds()
    local count = 0
    for _ in lfs.dir("/proc/" .. ngx.worker.pid() .. "/fd") do
        count = count + 1
    end
    return count
end


--- Waits until there are no more connections, timers and file descriptors than at the first call.
---@return string? failure
function _M.settle()
    local fds, stats
    local is_settled = wait_until(function()
        collectgarbage()
        fds, stats = open_fds(), http.stats()
        return stats.connections_open == 0 and stats.connections_idle == 0
            and ngx.timer.running_count() == 0 and fds <= (fds_at_first or fds)
    end)
    fds_at_first = fds_at_first or fds
    if not is_settled then
        return ("%d connections open, %d idle, %d file descriptors where %d were"):format(
            stats.connections_open, stats.connections_idle, fds, fds_at_first)
    end
end


-- The light thread that makes the call. `run` has no reference to the client: that is for the
-- garbage collector, but where a way needs it.
local function work_of(run)
    return function()
        local httpc = http.new()
        local times = run.times or {}
        httpc:set_timeouts(times.connect or _M.LONG, times.send or _M.LONG, times.read or _M.LONG)
        if run.way.keeps_client then
            run.httpc = httpc
        end
        local ok, err, details = run.stage.work(httpc, run)
        run.ok, run.err, run.details = ok ~= nil and ok ~= false, err, details
        run.has_returned = true
        if run.stage.rests and not run.way.returns then
            ngx.sleep(PATIENCE)
        end
        -- Until here it is in use.
        return httpc and ok
    end
end


-- What the request, or the timer, does that makes the call: ends when it is told to.
local function carry(run)
    run.sign = semaphore.new(0)
    run.sign_given = function() return run.sign:wait(PATIENCE) end
    ngx.thread.spawn(work_of(run))
    if run.way.from_another then
        ngx.thread.spawn(function()
            run.sign_given()
            run.way.finish()
        end)
    elseif run.way.finish then
        run.sign_given()
        run.way.finish()
    end
end


--- Handler of nginx's location /victim.
function _M.victim()
    local run = carried
    carried = nil
    carry(run)
end


local function in_request(run)
    carried = run
    local socket = ngx.socket.tcp()
    socket:settimeout(PATIENCE * 1000)
    assert(socket:connect("127.0.0.1", ngx.var.server_port))
    assert(socket:send("GET /victim HTTP/1.0\r\n\r\n"))
    run.socket = socket
end


local function by_sign(run)
    run.sign:post(1)
    if run.socket then
        run.socket:receive("*a")
        run.socket:close()
    end
end


local function in_timer(run)
    assert(ngx.timer.at(0, function() carry(run) end))
    assert(wait_until(function() return run.sign end))
end


local function in_thread(run)
    run.thread = ngx.thread.spawn(work_of(run))
end


local function kill(run)
    assert(ngx.thread.kill(run.thread))
    run.thread = nil
end


-- How each way begins and ends. `finish` is called in the request or timer itself.
local WAYS = {
    { name = "ngx.thread.kill", begin = in_thread, finally = kill },
    { name = "ngx.thread.kill, and the client calls again", begin = in_thread, keeps_client = true,
      finally = function(run)
          kill(run)
          assert(run.stage.get(run.httpc))
          run.httpc = nil
      end },
    { name = "the client has gone", begin = in_request,
      finally = function(run) run.socket:close() end },
    { name = "ngx.exit", begin = in_request, finally = by_sign,
      finish = function() ngx.exit(204) end },
    { name = "ngx.exit in another light thread", begin = in_request, finally = by_sign,
      finish = function() ngx.exit(204) end, from_another = true },
    { name = "an error", begin = in_request, finally = by_sign,
      finish = function() error("raised by the spec") end },
    { name = "a timer that ends", begin = in_timer, finally = by_sign,
      finish = function() ngx.exit(0) end },
    { name = "a request that is over", begin = in_request, returns = true, only_if_rests = true,
      finally = by_sign, finish = function() end },
    { name = "a timer that is over", begin = in_timer, returns = true, only_if_rests = true,
      finally = by_sign, finish = function() end },
}


local function new_run(stage, way)
    runs = runs + 1
    return { stage = stage, way = way, pool = "run-" .. runs, name = "run-" .. runs }
end


-- Whether the call has come to its stage. An error if it has ended before.
local function is_there(run, before, told_before)
    if run.has_returned and not (run.stage.rests and run.ok) then
        error("the call ended by itself: " .. tostring(run.err), 0)
    elseif run.stage.rests then
        return run.has_returned
    end
    return run.is_there or (not run.stage.says_so and in_hand().operations > before.operations
        and (not run.stage.told or run.stage.told(run) > told_before))
end


-- How it went if it went wrong.
local function try(stage, way)
    local run = new_run(stage, way)
    local release = stage.before and stage.before(run)
    local before, told_before = in_hand(), stage.told and stage.told(run)
    way.begin(run)
    assert(wait_until(function() return is_there(run, before, told_before) end),
           "the call does not get there")
    local finish = stage.after and stage.after(run)
    way.finally(run)
    local failure = finish and finish() or left_over(before)
    if release then
        release()
    end
    failure = failure or left_over({ operations = 0, requests = 0, connections = 0 })
    if not failure then
        local body, err = stage.get()
        failure = not body and "the next call fails: " .. tostring(err)
            or left_over({ operations = 0, requests = 0, connections = 0 })
    end
    return failure
end


-- Both kinds of time-outs at the same time, since they take some.
local function time_outs(stage)
    local list, releases, threads = {}, {}, {}
    if stage.ends then
        list[#list + 1] = new_run(stage, { name = "a time-out" })
        list[#list].times = { [stage.ends] = _M.SHORT }
    end
    if stage.deadline then
        list[#list + 1] = new_run(stage, { name = "a deadline" })
        list[#list].deadline = _M.SHORT
    end
    for i, run in ipairs(list) do
        releases[i] = stage.before and stage.before(run)
    end
    local before = in_hand()
    for i, run in ipairs(list) do
        threads[i] = ngx.thread.spawn(work_of(run))
    end
    for i in ipairs(list) do
        assert(ngx.thread.wait(threads[i]))
    end
    local failure = left_over(before)
    for _, release in pairs(releases) do
        release()
    end
    for _, run in ipairs(list) do
        local details = run.details or {}
        local seen = table.concat({ tostring(run.err), tostring(details.code),
                                    tostring(details.stage) }, ", ")
        local is_deadline = (details.hint or ""):find("deadline", 1, true) ~= nil
        if run.err ~= "timeout" or is_deadline ~= (run.deadline ~= nil) or not run.deadline
                and (details.code ~= stage.code or details.stage ~= stage.stage) then
            failure = failure or run.way.name .. " is: " .. seen
        end
    end
    return failure or left_over({ operations = 0, requests = 0, connections = 0 }), #list
end


--- Tries a stage in all ways.
---@return string? failure the first one
---@return integer count of what was tried
function _M.run(stage)
    local count = 0
    for _, way in ipairs(WAYS) do
        if not way.only_if_rests or stage.rests then
            count = count + 1
            local ok, failure = pcall(try, stage, way)
            if failure or not ok then
                -- What is left would be found again by all that follow.
                return way.name .. ": " .. tostring(failure), count
            end
        end
    end
    local ok, failure, tried = pcall(time_outs, stage)
    if failure or not ok then
        return "time-outs: " .. tostring(failure), count
    end
    return nil, count + tried
end


--- Kills calls in their middle, some at a time, and says how much memory that took.
---@param stage table of which `work` is used
---@param count integer
---@return number megabytes
function _M.kill_many(stage, count)
    local before = memory.resident()
    for _ = 1, count / AT_A_TIME do
        local allowed, threads = in_hand(), {}
        for i = 1, AT_A_TIME do
            threads[i] = ngx.thread.spawn(work_of(new_run(stage, {})))
        end
        assert(wait_until(function()
            return in_hand().operations == allowed.operations + AT_A_TIME
        end), "the calls do not get there")
        for i = 1, AT_A_TIME do
            assert(ngx.thread.kill(threads[i]))
            threads[i] = nil
        end
        local failure = left_over(allowed)
        if failure then
            error(failure, 0)
        end
    end
    return memory.resident() - before
end


return _M
