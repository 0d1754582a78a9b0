--- Calls of callers at random, inside nginx: who they are, whom they trust, where to, through which
--- proxy. For isolation.lua.
---
--- A request says as whom it is meant to be made, and where; the upstream says what it saw.

local fs = require("spec.support.fs")
local http = require("resty.mtls.http")

local _M = {}

--- What a request says, in its query, and what the upstream saw.
_M.FIELDS = {
    { name = "id", variable = "arg_id" },
    { name = "as", variable = "arg_as" },
    { name = "at", variable = "arg_at" },
    { name = "sni", variable = "arg_sni" },
    { name = "by", variable = "arg_by" },
    { name = "over", variable = "arg_over" },
    { name = "fingerprint", variable = "ssl_client_fingerprint" },
    { name = "place", variable = "place" },
    { name = "server_name", variable = "ssl_server_name" },
    { name = "source", variable = "remote_addr" },
    { name = "protocol", variable = "server_protocol" },
    { name = "connection", variable = "connection" },
    { name = "session", variable = "ssl_session_reused" },
}

local THREADS = 24
-- Callers are drawn anew so many times: of so many kinds, with so many that differ in one thing.
local DRAWS, KINDS, NEIGHBOURS = 4, 6, 9

local PARTS = { "identity", "trust", "place", "name", "proxy", "pool", "version", "bound" }
local POOLS = { false, "shared", "other" }
local BOUNDS = { {}, {}, { pool_size = 2, backlog = 1000 }, { pool_size = 1, backlog = 1000 } }


--- Takes a line of the log, or the body of a response, apart.
---@param line string
---@return table<string, string> seen
function _M.parse(line)
    local seen, index = {}, 0
    for value in (line .. "|"):gmatch("([^|]*)|") do
        index = index + 1
        local field = _M.FIELDS[index]
        seen[field and field.name or "status"] = value == "-" and "" or value
    end
    return seen
end


local function index_of(list, value)
    for i = 1, #list do
        if list[i] == value then
            return i
        end
    end
end


--- Whether a request was made as it was meant to be.
---@param world table
---@param seen table<string, string>
---@return string? mistake
function _M.check(world, seen)
    local source
    for _, proxy in ipairs(world.proxies) do
        source = proxy.name == seen.by and proxy.source or source
    end
    local prints = world.fingerprints[seen.as]
    if not prints then
        return seen.as .. " is nobody who may make a request"
    elseif not index_of(prints, seen.fingerprint) then
        return seen.as .. " was seen with the certificate '" .. seen.fingerprint .. "'"
    elseif seen.place ~= seen.at then
        return "meant for " .. seen.at .. ", came to " .. seen.place
    elseif seen.server_name ~= seen.sni then
        return "meant for the name '" .. seen.sni .. "', came to '" .. seen.server_name .. "'"
    elseif seen.source ~= source then
        return "meant to come by " .. seen.by .. ", came from " .. seen.source
    elseif seen.protocol ~= seen.over then
        return "meant to be " .. seen.over .. ", was " .. seen.protocol
    end
end


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


-- The code that a call has to fail with, or nil. What is checked first comes first.
local function refusal_of(caller)
    local place, trust, proxy = caller.place, caller.trust, caller.proxy
    if not place.is_tls and next(caller.identity.options) then
        return "bad_argument"
    elseif proxy.is_tls and not trust.is_blind and not trust.issuers.ca then
        return "server_certificate_untrusted"
    elseif proxy.refuses then
        -- Without a tunnel that is an answer.
        return place.is_tls and "proxy_refused" or "407"
    elseif not place.is_tls then
        return nil
    end
    if caller.version == 2 and place.is_old then
        return "http2_unsupported"
    end
    local name = caller.name.server_name or caller.name.host
    local shown = place.issuers[name] and name or "localhost"
    if not trust.is_blind and not trust.issuers[place.issuers[shown]] then
        return "server_certificate_untrusted"
    elseif not trust.is_blind and name == "else.where" then
        return "server_name_mismatch"
    elseif trust.pinned and trust.pinned ~= place.keys[shown] then
        return "server_key_not_pinned"
    end
end


local function parts()
    return { identity = world.identities, trust = world.trusts, place = world.places,
             name = world.names, proxy = world.proxies, pool = POOLS, version = plan.versions,
             bound = BOUNDS }
end


-- Fills in what follows from a caller's parts.
local function complete(caller, lists)
    local key = {}
    for i, part in ipairs(PARTS) do
        caller[part] = lists[part][caller.chosen[part]]
        -- A bound on connections is nothing that keeps calls apart.
        key[i] = part == "bound" and "" or caller.chosen[part]
    end
    if not caller.place.is_tls then
        -- There, neither trust nor the name for TLS keeps anybody apart.
        caller.version = 1.1
        key[2], key[4], key[7] = "", caller.name.host, ""
    end
    caller.key = table.concat(key, " ")
    caller.profile = table.concat({ key[1], key[2], key[7] }, " ")
    caller.refusal = refusal_of(caller)
    local is_http2 = caller.version ~= 1.1 and not caller.place.is_old
    local sni = caller.name.server_name or caller.name.host
    caller.claims = "&as=" .. (caller.refusal and "refused" or caller.identity.name)
        .. "&at=" .. caller.place.name
        .. "&sni=" .. ((not caller.place.is_tls or sni:find("^%d")) and "" or sni)
        .. "&by=" .. caller.proxy.name .. "&over=HTTP/" .. (is_http2 and "2.0" or "1.1")
    return caller
end


local function draw(lists, fixed)
    local chosen = {}
    for _, part in ipairs(PARTS) do
        chosen[part] = fixed[part] or math.random(#lists[part])
    end
    if not lists.place[chosen.place].is_tls and math.random(5) > 1 then
        -- Nobody else is served there.
        chosen.identity = 1
    end
    return complete({ chosen = chosen }, lists)
end


local function neighbour(caller, part, lists)
    local chosen = {}
    for name, index in pairs(caller.chosen) do
        chosen[name] = index
    end
    chosen[part] = math.random(#lists[part])
    return complete({ chosen = chosen }, lists)
end


-- The first place is without TLS. There, who is trusted matters to a proxy with TLS and to nobody
-- else, which chance would seldom bring about.
local function through_tls_proxy()
    for i, proxy in ipairs(world.proxies) do
        if proxy.is_tls then
            return { place = 1, proxy = i }
        end
    end
end


-- Some that are served, and for each of them others who differ in one thing.
local function draw_callers()
    local lists, callers = parts(), {}
    for kind = 1, KINDS do
        local caller
        repeat
            caller = draw(lists, kind == 1 and through_tls_proxy() or {})
        until not caller.refusal
        callers[#callers + 1] = caller
        for i = 1, NEIGHBOURS do
            callers[#callers + 1] = neighbour(caller, PARTS[i % #PARTS + 1], lists)
        end
    end
    return callers
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
    local seen = _M.parse(body)
    local wrong = caller.refusal and "was not refused" or _M.check(world, seen)
    if seen.id ~= id then
        wrong = "asked " .. id .. ", answered " .. seen.id
    end
    if caller.identity.name == "turns" and not wrong then
        local turn = index_of(world.fingerprints.turns, seen.fingerprint)
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
                    callers, drawn = draw_callers(), drawn + 1
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


-- The identity whose file changes, and all else as simple as can be.
local function turning_caller()
    local lists, chosen = parts(), {}
    for _, part in ipairs(PARTS) do
        chosen[part] = 1
    end
    chosen.place, chosen.trust = 3, 3
    for i, identity in ipairs(world.identities) do
        chosen.identity = identity.name == "turns" and i or chosen.identity
    end
    return complete({ chosen = chosen }, lists)
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
    local caller = turning_caller()
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
