--- Calls of callers at random (see isolation_callers.lua), inside nginx. For isolation.lua.
---
--- A request says as whom it is meant to be made, and where; the upstream says what it saw.

local callers_of = require("spec.support.isolation_callers")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")

local _M = {}

local THREADS = 24
-- Callers are drawn anew so many times.
local DRAWS = 4

local world, plan, worker
-- What came of it. `owners` says whose a connection of the upstream's is.
local figures, mistakes, owners, number
-- The newest certificate that a profile was seen with, of the identity whose file changes. Each
-- profile looks at its files by itself.
local newest


local function mistake(caller, text)
    figures.mistakes = figures.mistakes + 1
    if #mistakes < 5 then
        mistakes[#mistakes + 1] = caller.key .. ": " .. text
    end
end


local function options_of(caller)
    local options = {
        scheme = caller.place.is_tls and "https" or "http", host = caller.name.host,
        port = caller.place.port, ssl_server_name = caller.name.server_name,
        pool = caller.pool or nil, http_version = caller.version,
    }
    for _, more in ipairs({ caller.identity.options, caller.trust.options, caller.bound }) do
        for name, value in pairs(more) do
            options[name] = value
        end
    end
    return options
end


local function new_client(caller)
    local httpc = http.new()
    httpc:set_timeout(30000)
    httpc:set_proxy_options({ http_proxy = caller.proxy.uri, https_proxy = caller.proxy.uri })
    return httpc
end


local function new_path(caller)
    number = number + 1
    local id = plan.name .. "-" .. worker .. "-" .. number
    local page = math.random(4) == 1 and "/late" or "/echo"
    return page .. "?id=" .. id .. caller.claims, id
end


local function params_of(caller, path)
    -- nginx wants the name in the Host header that it had in the handshake.
    return { path = path, headers = { Host = caller.name.server_name or caller.name.host } }
end


-- Counts a call that was refused.
local function refused(caller, code, err)
    if code == caller.refusal then
        figures.refused = figures.refused + 1
        figures.refused_by_code[code] = (figures.refused_by_code[code] or 0) + 1
    else
        mistake(caller, tostring(err) .. " (" .. tostring(code) .. ") in place of "
            .. (caller.refusal or "an answer"))
    end
end


-- Looks at an answer. Nobody may be seen with a certificate that was replaced by one that had been
-- seen when the call began.
local function judge(caller, status, body, id, oldest)
    if status ~= 200 then
        return refused(caller, tostring(status), "status")
    end
    local seen = callers_of.parse(body)
    local wrong = caller.refusal and "was not refused" or callers_of.check(world, seen)
    if seen.id ~= id then
        wrong = "asked " .. id .. ", answered " .. seen.id
    end
    if caller.identity.name == "turns" and not wrong then
        local turn = callers_of.index_of(world.fingerprints.turns, seen.fingerprint)
        newest[caller.profile] = math.max(newest[caller.profile] or 1, turn)
        if turn < oldest then
            wrong = "turn " .. turn .. " after turn " .. oldest
        end
    end
    -- A proxy that passes requests on has connections of its own.
    if caller.place.is_tls or not caller.proxy.uri then
        owners[seen.connection] = owners[seen.connection] or caller.key
        if owners[seen.connection] ~= caller.key then
            wrong = "on the connection of " .. owners[seen.connection]
        end
    end
    if wrong then
        return mistake(caller, wrong)
    end
    figures.good = figures.good + 1
end


-- Makes requests on one connection; true if the client still has it.
local function exchange(httpc, caller, requests)
    local oldest = newest[caller.profile] or 1
    local ok, err, details = httpc:connect(options_of(caller))
    if not ok then
        return refused(caller, details.code, err)
    end
    if httpc:get_reused_times() > 0 then
        figures.reused = figures.reused + 1
    end
    -- A connection that was never in the pool may end between two requests, where none lasts.
    for _ = 1, caller.place.name == "brief" and 1 or requests do
        local path, id = new_path(caller)
        local res
        res, err, details = httpc:request(params_of(caller, path))
        local body
        if res then
            body, err, details = res:read_body()
        end
        if not body then
            return refused(caller, details.code, err)
        end
        judge(caller, res.status, body, id, oldest)
    end
    return true
end


local WAYS = {}


function WAYS.kept(caller)
    local httpc = new_client(caller)
    if exchange(httpc, caller, 1) then
        -- Some are kept for no longer than a moment, some two at the most.
        httpc:set_keepalive(math.random(3) == 1 and 20 or 10000, math.random(3) == 1 and 2 or 30)
    end
end


function WAYS.kept_after_two(caller)
    local httpc = new_client(caller)
    if exchange(httpc, caller, 2) then
        httpc:set_keepalive()
    end
end


function WAYS.closed(caller)
    local httpc = new_client(caller)
    if exchange(httpc, caller, 1) then
        httpc:close()
    end
end


-- By request_uri.
function WAYS.at_once(caller)
    local httpc, oldest = new_client(caller), newest[caller.profile] or 1
    local path, id = new_path(caller)
    local params = options_of(caller)
    for name, value in pairs(params_of(caller, path)) do
        params[name] = value
    end
    params.keepalive = math.random(4) > 1
    local uri = params.scheme .. "://" .. caller.name.host .. ":" .. caller.place.port
    local res, err, details = httpc:request_uri(uri, params)
    if not res then
        return refused(caller, details.code, err)
    end
    judge(caller, res.status, res.body, id, oldest)
end


-- Whatever it is doing then. The client is closed, or left to the garbage collector.
function WAYS.killed(caller)
    local httpc = new_client(caller)
    local thread = ngx.thread.spawn(exchange, httpc, caller, 2)
    ngx.sleep(math.random(0, 8) / 1000)
    if not ngx.thread.kill(thread) then
        ngx.thread.wait(thread)
        httpc:close()
        return
    end
    figures.killed = figures.killed + 1
    if math.random(2) == 1 then
        httpc:close()
    end
    thread, httpc = nil, nil -- luacheck: ignore
    collectgarbage()
end

local CHANCES = { "kept", "kept", "kept", "kept", "kept", "kept_after_two", "closed", "closed",
                  "at_once", "at_once", "at_once", "killed" }


-- Puts the next certificate in place of the one in the file.
local function turn(index)
    fs.write(world.turn_path, world.turns[index])
end


local function visit_all()
    local threads, visits, callers, drawn = {}, 0, nil, 0
    local turned = 1
    for i = 1, THREADS do
        threads[i] = ngx.thread.spawn(function()
            while visits < plan.visits do
                if visits * DRAWS >= drawn * plan.visits then
                    callers, drawn = callers_of.draw(world, plan.versions), drawn + 1
                end
                visits = visits + 1
                if worker == 0 and visits * #world.turns >= turned * plan.visits
                    and turned < #world.turns then
                    turned = turned + 1
                    turn(turned)
                end
                WAYS[CHANCES[math.random(#CHANCES)]](callers[math.random(#callers)])
            end
        end)
    end
    for i = 1, THREADS do
        assert(ngx.thread.wait(threads[i]))
    end
    return visits
end


local function wait_until(condition)
    for _ = 1, 2000 do
        if condition() then
            return true
        end
        ngx.sleep(0.01)
    end
    return false
end


--- Makes the calls of one worker.
---@param given { world: table, plan: IsolationRun }
---@param own_number integer of this worker
---@return table figures
function _M.run(given, own_number)
    world, plan, worker = given.world, given.plan, own_number
    figures = { good = 0, refused = 0, refused_by_code = {}, killed = 0, reused = 0, mistakes = 0 }
    mistakes, owners, number, newest = {}, {}, 0, {}
    math.randomseed(plan.seed * 2 + worker)
    http.set_resolver(function() return "127.0.0.1" end)

    figures.visits = visit_all()
    local caller = callers_of.turning(world, plan.versions)
    figures.has_turned = wait_until(function()
        WAYS.kept(caller)
        return newest[caller.profile] == #world.turns
    end)
    figures.is_settled = wait_until(function()
        collectgarbage()
        local now = http.stats()
        return now.operations_in_flight == 0 and now.requests_in_flight == 0
    end)
    figures.mistake_texts = table.concat(mistakes, "\n")
    figures.stats = http.stats()
    return figures
end


return _M
