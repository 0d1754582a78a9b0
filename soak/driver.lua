--- Runs inside of the driver, an nginx that does not have the library: asks the gateways for calls
--- at random, so many at a time, and judges what comes of each.
local accounts = require("soak.accounts")
local bodies = require("soak.body")
local cjson = require("cjson")
local hostile = require("soak.hostile")
local identities = require("soak.identities")
local random = require("soak.random")
local targets = require("soak.targets")
local ways = require("soak.ways")

local _M = {}

-- Milliseconds: more than any call may take.
local PATIENCE = 120000
-- One call in so many is one of a hostile peer, or cannot go well.
local HOSTILE = 6

local ANONYMOUS = { name = "nobody", subjects = { [""] = true } }

local settings
local account = accounts.new()
local running, active, last_id = false, 0, 0


--- For init_by_lua.
---@param given { seed: integer, gateways: integer[], ids: integer } ports of the gateways
function _M.set_up(given)
    settings = given
    for _, way in ipairs(ways.list) do
        way.targets = targets.of(way)
        assert(#way.targets > 0, way.name)
    end
end


---@class Order what is asked of a gateway
---@field id integer
---@field gateway integer port
---@field way Way|Hostile
---@field target Target
---@field who Who
---@field random Random

local function choose(id)
    local chance = random.new(settings.seed, id)
    local order = { id = id, random = chance, gateway = chance:pick(settings.gateways) }
    if chance:one_in(HOSTILE) then
        order.way = chance:weighed(hostile.list)
        order.title = "peer " .. order.way.name
        order.target, order.who = targets.by_name.h1, ANONYMOUS
        return order
    end
    order.way = chance:weighed(ways.list)
    order.title = order.way.title
    order.target = chance:weighed(order.way.targets)
    order.who = order.target.scheme == "https" and chance:weighed(identities.list) or ANONYMOUS
    return order
end


local function request_of(order)
    local query = string.format("call=%d&seed=%d&way=%s&target=%s&who=%s", order.id, settings.seed,
                                ngx.escape_uri(order.way.name), order.target.name,
                                ngx.escape_uri(order.who.name))
    local head = "Host: gateway\r\nConnection: close\r\n"
    if not order.way.is_passed then
        return "GET /call?" .. query .. " HTTP/1.1\r\n" .. head .. "\r\n"
    end
    local chance = order.random
    order.passed = { id = order.id * settings.ids, n = chance:upto(50000), up = chance:upto(50000) }
    local passed = order.passed
    return string.format("POST /pass?%s&id=%d&n=%d&up=%d HTTP/1.1\r\n%sX-Id: %d\r\n"
                         .. "Content-Length: %d\r\n\r\n", query, passed.id, passed.n, passed.up,
                         head, passed.id, passed.up) .. bodies.bytes(passed.id, passed.up)
end


local function read_answer(sock)
    local text, err = sock:receive("*a")
    if not text then
        return nil, err
    end
    local status, fields, body = text:match("^HTTP/1%.1 (%d+)[^\n]*\n(.-\r\n)\r\n(.*)$")
    if not status then
        return nil, text == "" and "an answer that was cut off" or "no answer: " .. text:sub(1, 100)
    end
    local headers = {}
    for name, value in fields:gmatch("([^:\r\n]+): ([^\r\n]*)\r\n") do
        headers[name:lower()] = value
    end
    if headers["transfer-encoding"] == "chunked" then
        local parts, position = {}, 1
        while true do
            local size, first = body:match("^(%x+)\r\n()", position)
            if not size then
                return nil, "an answer that was cut off"
            end
            size = tonumber(size, 16)
            if size == 0 then
                break
            end
            parts[#parts + 1] = body:sub(first, first + size - 1)
            position = first + size + 2
        end
        body = table.concat(parts)
    end
    return { status = tonumber(status), headers = headers, body = body }
end


local function judge_passed(order, answer)
    local passed, headers = order.passed, answer.headers
    local subject = headers["x-subject"] or ""
    if headers["x-id"] ~= tostring(passed.id) or not order.who.subjects[subject]
            or answer.status ~= 200 then
        return "a passed answer for " .. tostring(headers["x-id"]) .. " as " .. subject
            .. " with status " .. answer.status .. ": " .. answer.body:sub(1, 100)
    end
    local expected = passed.id .. " " .. subject .. "\n" .. bodies.bytes(passed.id, passed.n)
    if answer.body ~= expected then
        return "a passed body: " .. bodies.difference(expected, answer.body)
    end
end


local function may_fail(order, code)
    local way = order.way
    return way.fails and way.fails[code] or way.may and way.may[code]
        or order.target.is_shaky and targets.SHAKEN[code]
end


-- What came of a call, from what the gateway says of it.
local function judge(order, answer, err)
    if not answer then
        -- A passed answer that the server did not finish is cut off for the client as well.
        if order.passed and order.target.is_shaky and err:find("^an ") then
            return account:expected(order, "cut_off")
        end
        return account:finding(order, "lost: " .. err)
    end
    local outcome = answer.headers["x-outcome"] or answer.body
    if order.passed and not answer.headers["x-outcome"] then
        local problem = judge_passed(order, answer)
        if problem then
            return account:finding(order, problem)
        end
        outcome = "right"
    elseif not order.passed and answer.headers["x-call"] ~= tostring(order.id) then
        return account:finding(order, "the answer of call " .. tostring(answer.headers["x-call"]))
    end

    if outcome == "right" then
        if order.way.fails then
            return account:finding(order, "went well, and could not")
        end
        return account:right(order, tonumber(answer.headers["x-requests"] or 1),
                             answer.headers["x-subject"])
    end
    local code = outcome:match("^failed\t([^\t]*)")
    if code and may_fail(order, code) then
        return account:expected(order, code)
    end
    return account:finding(order, outcome)
end


local function ask(order)
    local sock = ngx.socket.tcp()
    sock:settimeouts(PATIENCE, PATIENCE, PATIENCE)
    local request = request_of(order)
    local ok, err = sock:connect("127.0.0.1", order.gateway)
    if ok then
        ok, err = sock:send(request)
    end
    if not ok then
        return account:finding(order, "the gateway: " .. err)
    end
    if order.way.is_abandoned then
        ngx.sleep(order.random:upto(150) / 1000)
        sock:close()
        return account:abandoned(order)
    end
    local answer
    answer, err = read_answer(sock)
    sock:close()
    judge(order, answer, err)
end


local function work(premature)
    while running and not premature do
        last_id = last_id + 1
        local order = choose(last_id)
        account:asked(order)
        active = active + 1
        local ok, raised = pcall(ask, order)
        active = active - 1
        if not ok then
            account:finding(order, "the driver: " .. tostring(raised))
        end
        -- Who is answered at once would not let others go.
        ngx.sleep(0)
    end
end


--- Begins, so many calls at a time.
function _M.begin()
    running = true
    for _ = 1, tonumber(ngx.var.arg_count) do
        assert(ngx.timer.at(0, work))
    end
end


--- Asks for nothing more.
function _M.pause()
    running = false
end


--- What came of it so far.
function _M.state()
    ngx.print(cjson.encode({ active = active, account = account:table() }))
end


return _M
