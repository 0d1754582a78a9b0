--- A plain HTTP/1.1 client for talking to the nginx under test. Deliberately not ours.
---
--- `send` returns as soon as the request is written, so that one spec can have many in flight.
local socket = require("socket")
local ssl -- loaded on demand: few specs need it

local _M = {}

---@class ClientRequest
---@field port integer
---@field path string
---@field method string? GET, or POST with a body
---@field headers table<string, string>?
---@field body string?
---@field timeout number? seconds for each wait, 15 unless given
---@field sni string? makes it an https request with this name; nothing is verified

---@class ClientResponse
---@field status integer
---@field headers table<string, string> names in lower case
---@field body string
---@field seconds number from sending to the end

---@class Exchange a request in flight
local Exchange = {}
Exchange.__index = Exchange


local function wrap_tls(connection, server_name)
    ssl = ssl or require("ssl")
    local wrapped = assert(ssl.wrap(connection, { mode = "client", protocol = "any" }))
    wrapped:sni(server_name)
    local ok, err = wrapped:dohandshake()
    return ok and wrapped, err
end


local function connect(request)
    local connection = socket.tcp()
    connection:settimeout(request.timeout or 15)
    local ok, err = connection:connect("127.0.0.1", request.port)
    if not ok then
        return nil, err
    end
    connection:setoption("tcp-nodelay", true)
    if request.sni then
        return wrap_tls(connection, request.sni)
    end
    return connection
end


local function head_of(request)
    local method = request.method or (request.body and "POST" or "GET")
    local lines = { method .. " " .. request.path .. " HTTP/1.1" }
    local headers = { Host = "localhost:" .. request.port, Connection = "close" }
    if request.body then
        headers["Content-Length"] = tostring(#request.body)
    end
    for name, value in pairs(request.headers or {}) do
        headers[name] = value
    end
    for name, value in pairs(headers) do
        lines[#lines + 1] = name .. ": " .. value
    end
    return table.concat(lines, "\r\n") .. "\r\n\r\n"
end


--- Sends a request.
---@param request ClientRequest
---@return Exchange? exchange
---@return string? err
function _M.send(request)
    local connection, err = connect(request)
    if not connection then
        return nil, err
    end
    local started = socket.gettime()
    connection:send(head_of(request) .. (request.body or ""))
    return setmetatable({
        connection = connection, started = started, method = request.method,
    }, Exchange)
end


--- Sends a request and waits for the response.
---@param request ClientRequest
---@return ClientResponse? response
---@return string? err
function _M.fetch(request)
    local exchange, err = _M.send(request)
    if not exchange then
        return nil, err
    end
    return exchange:receive()
end


local function join_chunks(body)
    local parts, position = {}, 1
    while true do
        local size, data_start = body:match("^(%x+)[^\r\n]*\r\n()", position)
        if not size or tonumber(size, 16) == 0 then
            return table.concat(parts)
        end
        parts[#parts + 1] = body:sub(data_start, data_start + tonumber(size, 16) - 1)
        position = data_start + tonumber(size, 16) + 2
    end
end


local function parse(text)
    local status, fields, body = text:match("^HTTP/1%.%d (%d+)[^\n]*\n(.-)\r\n\r\n(.*)$")
    if not status then
        return nil, "not a response: " .. text
    end
    local headers = {}
    for name, value in (fields .. "\r\n"):gmatch("([^:\r\n]+):[ \t]*([^\r\n]*)\r\n") do
        headers[name:lower()] = value
    end
    if headers["transfer-encoding"] == "chunked" then
        body = join_chunks(body)
    end
    return { status = tonumber(status), headers = headers, body = body }
end


--- Waits for the response. The connection is closed afterwards.
---@return ClientResponse? response
---@return string? err
function Exchange:receive()
    local text, err, partial = self.connection:receive("*a")
    self:abort()
    if not text then
        return nil, err .. (partial ~= "" and " after: " .. partial or "")
    end
    local response, parse_err = parse(text)
    if not response then
        return nil, parse_err
    end
    response.seconds = socket.gettime() - self.started
    return response
end


--- Closes the connection without waiting for the response.
function Exchange:abort()
    self.connection:close()
end


return _M
