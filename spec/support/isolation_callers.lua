--- Who calls in the specs of isolation, whom they trust, where to, through which proxy; how such a
--- call has to end; and what a request says of itself. For isolation.lua and isolation_calls.lua.

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

-- Callers are of so many kinds, and for each so many differ from it in one thing.
local KINDS, NEIGHBOURS = 6, 9

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


--- Where a value is in a list.
---@return integer?
function _M.index_of(list, value)
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
    elseif not _M.index_of(prints, seen.fingerprint) then
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


local function parts(world, versions)
    return { identity = world.identities, trust = world.trusts, place = world.places,
             name = world.names, proxy = world.proxies, pool = POOLS, version = versions,
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
local function through_tls_proxy(world)
    for i, proxy in ipairs(world.proxies) do
        if proxy.is_tls then
            return { place = 1, proxy = i }
        end
    end
end


--- Draws callers that are served, and for each of them others who differ in one thing.
---@param world table
---@param versions (number|string)[]
---@return table[] callers
function _M.draw(world, versions)
    local lists, callers = parts(world, versions), {}
    for kind = 1, KINDS do
        local caller
        repeat
            caller = draw(lists, kind == 1 and through_tls_proxy(world) or {})
        until not caller.refusal
        callers[#callers + 1] = caller
        for i = 1, NEIGHBOURS do
            callers[#callers + 1] = neighbour(caller, PARTS[i % #PARTS + 1], lists)
        end
    end
    return callers
end


--- The identity whose file changes, and all else as simple as can be.
---@param world table
---@param versions (number|string)[]
---@return table caller
function _M.turning(world, versions)
    local lists, chosen = parts(world, versions), {}
    for _, part in ipairs(PARTS) do
        chosen[part] = 1
    end
    chosen.place, chosen.trust = 3, 3
    for i, identity in ipairs(world.identities) do
        chosen.identity = identity.name == "turns" and i or chosen.identity
    end
    return complete({ chosen = chosen }, lists)
end


return _M
