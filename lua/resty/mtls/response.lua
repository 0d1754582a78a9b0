--- Responses: status, headers, and a body that is taken as it comes.

local failures = require("resty.mtls.failure")
local header_tables = require("resty.mtls.headers")
local operation = require("resty.mtls.operation")
local steps = require("resty.mtls.steps")

local concat = table.concat
local next = next
local tonumber = tonumber


local _M = {}


-- Beyond every body, and exact as a Lua number.
local MAX_SIZE = 2 ^ 50


local function no_body_reader()
    return nil
end


-- A body belongs to its response: once the next request is on its way, there is nothing to read.
local function is_current(httpc, res)
    return httpc.current_response == res
end


local function stale()
    return nil, "closed", {
        code = "closed",
        stage = "body",
        hint = "read the body before the next request, set_keepalive or connect on this client",
    }
end


-- Bytes, or nil where the caller gave none that makes sense.
local function to_size(max)
    max = tonumber(max)
    if not max or max ~= max or max < 1 then
        return nil
    end
    return max < MAX_SIZE and max - max % 1 or MAX_SIZE
end


local function new_body_reader(httpc, res)
    local client = httpc.client
    return function(max)
        max = to_size(max)
        if not is_current(httpc, res) then
            return stale()
        end
        local part, err, details, total = client:take_part(max)
        while part == false do
            local ok
            ok, err, details = operation.run(client, "await_part", max)
            if not ok then
                return failures.note_body(httpc, res, err, details)
            end
            if not is_current(httpc, res) then
                return stale()
            end
            part, err, details, total = client:take_part(max)
        end
        if err then
            return failures.note_body(httpc, res, err, details)
        end
        if total then
            if httpc.debugging then
                steps.body_complete(nil, total)
            end
            res.timings.total = total
        end
        return part
    end
end


-- In one wait, and with one copy into a Lua string.
local function read_whole(httpc, res)
    if not is_current(httpc, res) then
        return stale()
    end
    local client = httpc.client
    local body, err, details, total = client:take_whole()
    while body == false do
        local ok
        ok, err, details = operation.run(client, "await_whole")
        if not ok then
            return failures.note_body(httpc, res, err, details)
        end
        if not is_current(httpc, res) then
            return stale()
        end
        body, err, details, total = client:take_whole()
    end
    if err then
        return failures.note_body(httpc, res, err, details)
    end
    if total then
        if httpc.debugging then
            steps.body_complete(#(body or ""), total)
        end
        res.timings.total = total
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


local function new_trailer_reader(httpc, res)
    return function()
        if not is_current(httpc, res) then
            return stale()
        end
        local trailers, err, details = httpc.client:trailers()
        if not trailers then
            return failures.note_body(httpc, res, err, details)
        end
        return header_tables.new(trailers)
    end
end


-- Announced or not: trailers come behind the body, and are found in the headers from then on.
local function read_trailers(res)
    local reader = res.trailer_reader
    if not reader then
        return nil, "no trailers"
    end
    local trailers, err, details = reader()
    if not trailers then
        return nil, err, details
    end
    if next(trailers) == nil and not res.headers["Trailer"] then
        return nil, "no trailers"
    end
    header_tables.add_fallback(res.headers, trailers)
end


--- Makes the response that the client's last operation brought a table.
---@param httpc table
---@param id integer of the operation
---@return table|false|nil res false if it brought none
---@return string? err
---@return table? details
function _M.new(httpc, id)
    local status, reason, headers, has_body, chunked, keeps_alive, resolve, connect, tls,
        first_byte, total = httpc.client:response(id)
    if not status then
        return status, reason, headers
    end
    if not keeps_alive then
        httpc.keepalive = false
    end
    local res = {
        status = status,
        reason = reason,
        headers = header_tables.new(headers),
        has_body = has_body,
        timings = {
            resolve = resolve or 0,
            connect = connect or 0,
            tls = tls or 0,
            first_byte = first_byte,
            total = total,
            reused = not resolve,
        },
        body_reader = no_body_reader,
        read_body = read_body,
        read_trailers = read_trailers,
    }
    httpc.current_response = res
    if httpc.debugging then
        steps.answered(httpc, res)
    end
    if chunked then
        res.trailer_reader = new_trailer_reader(httpc, res)
    end
    if has_body then
        local reader = new_body_reader(httpc, res)
        res.body_reader = reader
        res.read_body = function(self)
            if self and self.body_reader ~= reader then
                return read_body(self)
            end
            return read_whole(httpc, res)
        end
    end
    return res
end


return _M
