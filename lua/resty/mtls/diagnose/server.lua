--- What a report says about the server's certificates.

local validity = require("resty.mtls.diagnose.validity")

local find = string.find
local gsub = string.gsub
local lower = string.lower
local sub = string.sub


local _M = {}


-- What the native library says with an error of its own.
local told = {
    expired = "server_certificate_expired",
    not_yet_valid = "server_certificate_not_yet_valid",
}


-- Exact, or a wildcard for the first label. nil where a text comparison cannot tell: IPv6 addresses
-- have many spellings.
local function matches(name, wanted)
    name, wanted = lower(name), lower(wanted)
    if name == wanted then
        return true
    elseif sub(name, 1, 2) == "*." then
        return gsub(wanted, "^[^.]+", "*", 1) == name
    end
    return false
end


local function name_matches(chain, server_name, code)
    if code == "server_name_mismatch" then
        return false
    elseif not chain[1] or not server_name or find(server_name, ":", 1, true) then
        return nil
    end
    local names = chain[1].names or {}
    local wanted = gsub(server_name, "%.$", "")
    for i = 1, #names do
        if matches(names[i], wanted) then
            return true
        end
    end
    return false
end


-- The name is looked at once the chain has been found good.
local function trusted(chain, verified, connected, code)
    if code == "server_certificate_untrusted" then
        return false
    elseif verified and chain[1] and (connected or code == "server_name_mismatch") then
        return true
    end
end


-- Whether the chain reaches a certificate that is sent or trusted.
local function complete(chain, is_trusted)
    local last = chain[#chain]
    if not last then
        return nil
    elseif is_trusted or last.self_signed then
        return true
    elseif is_trusted == false then
        return false
    end
end


local function is_ordered(chain)
    for i = 2, #chain do
        if chain[i - 1].issuer ~= chain[i].subject then
            return false
        end
    end
    return true
end


local function who(chain, i)
    return i == 1 and "the server's certificate"
        or "the CA certificate '" .. chain[i].subject .. "' that the server sent"
end


local function look_at_dates(chain, code, findings)
    for i = 1, #chain do
        local problem, text = validity.problem(chain[i])
        if problem == "expires_soon" then
            findings:add("warning", "server", "server_certificate_expires_soon",
                who(chain, i) .. " " .. text, "renew it on the server")
        elseif problem and told[problem] ~= code then
            findings:add("warning", "server", told[problem], who(chain, i) .. " " .. text,
                i == 1 and "renew it on the server, or set the clocks right"
                or "renew it, or take it out of what the server sends")
        end
    end
end


--- Describes the server's certificates.
---@param seen table what the native client reports
---@param context {verified: boolean, connected: boolean, server_name: string?, code: string?}
---@param findings table
---@return table server
function _M.examine(seen, context, findings)
    local chain, code = seen.chain or {}, context.code
    local server = { chain = chain }
    server.trusted = trusted(chain, context.verified, context.connected, code)
    server.complete = complete(chain, server.trusted)
    server.name_matches = name_matches(chain, context.server_name, code)

    if not context.verified then
        findings:add("warning", "server", "server_not_verified",
            "the server's certificate was not verified",
            "leave ssl_verify at true, and give its CA in ssl_trusted_certificate")
        if server.name_matches == false then
            findings:add("warning", "server", "server_name_mismatch",
                "the server's certificate is not for " .. context.server_name,
                "set ssl_server_name to one of its names if that is the server you mean")
        end
    end
    look_at_dates(chain, code, findings)
    if chain[1] and chain[1].self_signed then
        findings:add("note", "server", "server_self_signed",
            "the server's certificate is self-signed",
            "only who has this very certificate in ssl_trusted_certificate can verify it")
    end
    if not is_ordered(chain) then
        findings:add("note", "server", "server_chain_order",
            "the server's certificates are not in order, each followed by its issuer's",
            "some clients refuse such a chain: put them in order on the server")
    end
    return server
end


return _M
