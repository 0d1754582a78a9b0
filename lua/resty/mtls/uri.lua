--- URIs, as resty.http parses them.

local find = string.find
local gsub = string.gsub
local lower = string.lower
local match = string.match
local sub = string.sub
local tonumber = tonumber
local type = type


local _M = {}


-- Phases in which ngx.var can be read.
local request_phases = {
    set = true,
    rewrite = true,
    server_rewrite = true,
    access = true,
    content = true,
    header_filter = true,
    body_filter = true,
    log = true,
}


local function request_scheme()
    if ngx and ngx.get_phase and request_phases[ngx.get_phase()] then
        local scheme = ngx.var.scheme
        if scheme == "http" or scheme == "https" then
            return scheme
        end
    end
end


-- Host and port, and what is behind them. User and password have no place in a request's URI (RFC
-- 9110, 4.2.4): they would be taken for the host by one reader and skipped by another.
local function authority(rest)
    -- An IPv6 address may have a zone (RFC 4007, 11).
    local host, behind = match(rest, "^(%[[%x:.]+%])(.*)$")
    if not host then
        host, behind = match(rest, "^(%[[%x:.]+%%[%w._~-]+%])(.*)$")
    end
    if not host then
        -- None of what RFC 3986, 3.2.2, keeps out of a name: some readers take \ for a /.
        host, behind = match(rest, "^([^%[%]:/?#@%s%c\\\"<>^`{|}]+)(.*)$")
    end
    if not host then
        return nil
    end
    local port, path = match(behind, "^:(%d+)(.*)$")
    path = path or behind
    if path ~= "" and not find(path, "^[/?#]") then
        return nil
    end
    return host, tonumber(port), path
end


-- A URI for an error message, which may be logged: without user and password.
local function shown(uri)
    return (gsub(uri, "//[^/]*@", "//"))
end


--- Splits an http or https URI. A URI without a scheme takes that of the current request.
---@param uri string
---@param query_in_path? boolean leave the query in the path; true unless it is false
---@return table? parsed {scheme, host, port, path, query}
---@return string? err
function _M.parse(uri, query_in_path)
    if type(uri) ~= "string" then
        return nil, "bad uri: expected a string, got " .. type(uri)
    end
    local scheme, rest = match(uri, "^(%a+)://(.*)$")
    if scheme then
        scheme = lower(scheme)
    elseif sub(uri, 1, 2) == "//" then
        rest = sub(uri, 3)
        scheme = request_scheme()
        if not scheme then
            return nil, "schemaless URIs require a request context: " .. shown(uri)
        end
    end
    if scheme ~= "http" and scheme ~= "https" then
        return nil, "bad uri: " .. shown(uri)
    end

    local host, port, path = authority(rest)
    if not host then
        return nil, "bad uri: " .. shown(uri)
    end
    port = port or (scheme == "https" and 443 or 80)
    if port < 1 or port > 65535 then
        return nil, "bad uri: " .. shown(uri)
    end

    local query
    local mark = find(path, "?", 1, true)
    if mark then
        path, query = sub(path, 1, mark - 1), sub(path, mark + 1)
    end
    if path == "" then
        path = "/"
    end
    if query_in_path ~= false and query and query ~= "" then
        return { scheme, host, port, path .. "?" .. query, nil }
    end
    return { scheme, host, port, path, query or "" }
end


return _M
