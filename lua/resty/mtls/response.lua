--- Responses: status, headers, and a body that is taken as it comes.

local header_tables = require("resty.mtls.headers")
local wait = require("resty.mtls.wait")

local concat = table.concat
local tonumber = tonumber


local _M = {}


local function has_body(method, status)
    return method ~= "HEAD" and status >= 200 and status ~= 204 and status ~= 304
        and not (method == "CONNECT" and status < 300)
end


local function wait_for(client, begin, max)
    local mode, err, details = wait.mode()
    if not mode then
        return nil, err, details
    end
    local mailbox, id = wait.operation()
    local ok
    ok, err, details = client[begin](client, mailbox, id, max)
    if not ok then
        return nil, err, details
    end
    return wait.finish(mode, id)
end


local function no_body_reader()
    return nil
end


-- A body belongs to its response: once the next request is on its way, there is nothing to read.
local function is_current(httpc, res)
    return httpc.current_response == res
end


local function new_body_reader(httpc, res)
    local client = httpc.client
    return function(max)
        max = tonumber(max)
        if max and max <= 0 then
            max = nil
        end
        if not is_current(httpc, res) then
            return nil, "closed"
        end
        local part, err, details = client:take_part(max)
        while part == false do
            local ok
            ok, err, details = wait_for(client, "await_part", max)
            if not ok then
                return nil, err, details
            end
            part, err, details = client:take_part(max)
        end
        if err then
            return nil, err, details
        end
        return part
    end
end


-- In one wait, and with one copy into a Lua string.
local function read_whole(httpc, res)
    if not is_current(httpc, res) then
        return nil, "closed"
    end
    local client = httpc.client
    local body, err, details = client:take_whole()
    while body == false do
        local ok
        ok, err, details = wait_for(client, "await_whole")
        if not ok then
            return nil, err, details
        end
        body, err, details = client:take_whole()
    end
    if err then
        return nil, err, details
    end
    return body or ""
end


-- Callers may have put a reader of their own in the place of ours.
local function read_parts(reader)
    local parts, count = {}, 0
    while true do
        local part, err, details = reader()
        if err then
            return nil, err, details
        end
        if not part then
            return concat(parts)
        end
        count = count + 1
        parts[count] = part
    end
end


local function read_body(res)
    local reader = res.body_reader
    if not reader then
        return nil, "no body to be read"
    end
    if reader == no_body_reader then
        return ""
    end
    return read_parts(reader)
end


--- Makes the response of the client's last operation a table.
---@param httpc table
---@param method string in capitals
---@return table? res
---@return string? err
---@return table? details
function _M.new(httpc, method)
    local status, reason, headers, keeps_alive = httpc.client:response()
    if not status then
        return nil, reason, headers
    end
    if not keeps_alive then
        httpc.keepalive = false
    end
    local res = {
        status = status,
        reason = reason,
        headers = header_tables.new(headers),
        has_body = has_body(method, status),
        body_reader = no_body_reader,
        read_body = read_body,
    }
    httpc.current_response = res
    if res.has_body then
        local reader = new_body_reader(httpc, res)
        res.body_reader = reader
        res.read_body = function(self)
            if self.body_reader ~= reader then
                return read_body(self)
            end
            return read_whole(httpc, res)
        end
    end
    return res
end


return _M
