--- Frames of HTTP/2 (RFC 9113) as bytes, for scripts of peer.lua.
---
---     local server = peer.start{ script = {
---         frames.await_request(1), peer.send(frames.SETTINGS .. frames.response(1, "body")),
---     } }
local peer = require("spec.support.peer")

local char = string.char
local concat = table.concat

local _M = {}

_M.END_STREAM, _M.END_HEADERS = 0x1, 0x4

--- Error codes (RFC 9113, 7).
_M.NO_ERROR, _M.PROTOCOL_ERROR, _M.INTERNAL_ERROR = 0x0, 0x1, 0x2
_M.REFUSED_STREAM, _M.CANCEL, _M.ENHANCE_YOUR_CALM = 0x7, 0x8, 0xb
_M.HTTP_1_1_REQUIRED = 0xd

--- The largest window (RFC 9113, 6.9.1).
_M.MAX_WINDOW = 2 ^ 31 - 1

--- Settings (RFC 9113, 6.5.2).
_M.MAX_CONCURRENT_STREAMS, _M.INITIAL_WINDOW_SIZE = 0x3, 0x4


local function u32(number)
    return char(math.floor(number / 2 ^ 24) % 256, math.floor(number / 2 ^ 16) % 256,
                math.floor(number / 2 ^ 8) % 256, number % 256)
end


--- A frame.
---@param kind integer
---@param flags integer
---@param stream integer
---@param payload string
---@return string
function _M.frame(kind, flags, stream, payload)
    return u32(#payload):sub(2) .. char(kind, flags) .. u32(stream) .. payload
end


--- The server's preface: no setting but those given, and the word that the client's are accepted.
---@param settings table<integer, integer>? values by identifier
---@return string
function _M.settings(settings)
    local parts = {}
    for identifier, value in pairs(settings or {}) do
        parts[#parts + 1] = char(0, identifier) .. u32(value)
    end
    return _M.frame(0x4, 0, 0, concat(parts)) .. _M.frame(0x4, 0x1, 0, "")
end

_M.SETTINGS = _M.settings()


-- A length of HPACK (RFC 7541, 5.1) with seven bits in its first byte.
local function length(number)
    if number < 127 then
        return char(number)
    end
    local bytes = { char(127) }
    number = number - 127
    while number >= 128 do
        bytes[#bytes + 1] = char(number % 128 + 128)
        number = math.floor(number / 128)
    end
    return concat(bytes) .. char(number)
end


--- A header block of literals that nobody remembers (RFC 7541, 6.2.2).
---@param fields string[][] pairs of name and value
---@return string
function _M.block(fields)
    local parts = {}
    for i, field in ipairs(fields) do
        parts[i] = char(0) .. length(#field[1]) .. field[1] .. length(#field[2]) .. field[2]
    end
    return concat(parts)
end


--- HEADERS of a response.
---@param stream integer
---@param fields string[][]? those behind `:status: 200`
---@param flags integer? END_HEADERS unless given
---@return string
function _M.headers(stream, fields, flags)
    return _M.frame(0x1, flags or _M.END_HEADERS, stream,
                    _M.block({ { ":status", "200" }, unpack(fields or {}) }))
end


---@return string
function _M.data(stream, bytes, is_last)
    return _M.frame(0x0, is_last and _M.END_STREAM or 0, stream, bytes)
end


--- A whole response.
---@param stream integer
---@param body string
---@return string
function _M.response(stream, body)
    return _M.headers(stream) .. _M.data(stream, body, true)
end


---@return string
function _M.reset(stream, code)
    return _M.frame(0x3, 0, stream, u32(code))
end


---@return string
function _M.goaway(last_stream, code)
    return _M.frame(0x7, 0, 0, u32(last_stream) .. u32(code))
end


---@return string
function _M.continuation(stream, block, flags)
    return _M.frame(0x9, flags or 0, stream, block)
end


--- Lets the client send more, on a stream or, with 0, on all of them.
---@param stream integer
---@param bytes integer
---@return string
function _M.window_update(stream, bytes)
    return _M.frame(0x8, 0, stream, u32(bytes))
end


--- Waits until the client has done something with all that was sent so far.
function _M.await_pong()
    return peer.receive_until(_M.frame(0x6, 0x1, 0, "12345678"))
end

_M.PING = _M.frame(0x6, 0, 0, "12345678")


--- Waits for a request without a body: HEADERS with END_HEADERS and END_STREAM.
---@param stream integer
function _M.await_request(stream)
    return peer.receive_until(char(0x1, 0x5) .. u32(stream))
end


--- Waits for the HEADERS of a request with a body.
---@param stream integer
function _M.await_head(stream)
    return peer.receive_until(char(0x1, 0x4) .. u32(stream))
end


--- What the client says when it resets a stream.
---@param stream integer
---@param code integer
---@return string
function _M.reset_by_client(stream, code)
    return _M.reset(stream, code)
end


return _M
