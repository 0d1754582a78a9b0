--- The request that nginx is serving, for those who pass it on: its body, and a response for it.

local requests = require("resty.mtls.request")

local byte = string.byte
local concat = table.concat
local find = string.find
local format = string.format
local gsub = string.gsub
local lower = string.lower
local match = string.match
local pairs = pairs
local pcall = pcall
local tonumber = tonumber
local type = type


local _M = {}


local DEFAULT_CHUNK_SIZE = 65536

-- What is for one connection only (RFC 9110, 7.6.1), and Content-Length, which nginx sets itself.
local hop_by_hop = {
    ["connection"] = true,
    ["keep-alive"] = true,
    ["proxy-authenticate"] = true,
    ["proxy-authorization"] = true,
    ["te"] = true,
    ["trailer"] = true,
    ["trailers"] = true,
    ["transfer-encoding"] = true,
    ["upgrade"] = true,
    ["content-length"] = true,
}


--- Whether a header table says that the body is chunked.
---@param headers table
---@return boolean
function _M.transfer_encoding_is_chunked(headers)
    local encoding = headers["Transfer-Encoding"]
    if not encoding then
        return false
    end
    if type(encoding) == "table" then
        encoding = concat(encoding, ",")
    end
    return find(lower(encoding), "chunked", 1, true) ~= nil
end


local function length_reader(sock, length, default_size)
    local left = length
    return function(max)
        local size = tonumber(max) or default_size
        if left == 0 then
            return nil
        end
        if size <= 0 or size > left then
            size = left
        end
        local part, err = sock:receive(size)
        if not part then
            left = 0
            return nil, err
        end
        left = left - size
        return part
    end
end


local function read_chunk_size(sock)
    local line, err = sock:receive("*l")
    if not line then
        return nil, err
    end
    local digits = match(line, "^(%x+)[ \t]*$") or match(line, "^(%x+)[ \t]*;")
    local size = digits and #digits <= 13 and tonumber(digits, 16)
    if not size then
        return nil, "unable to read chunksize"
    end
    return size
end


local function skip_trailers(sock)
    repeat
        local line, err = sock:receive("*l")
        if not line then
            return nil, err
        end
    until line == ""
    return true
end


local function chunked_reader(sock, default_size)
    local left, ended = 0, false

    local function fail(err)
        ended = true
        return nil, err
    end

    return function(max)
        if ended then
            return nil
        end
        if left == 0 then
            local size, err = read_chunk_size(sock)
            if not size then
                return fail(err)
            end
            if size == 0 then
                ended = true
                local ok
                ok, err = skip_trailers(sock)
                if not ok then
                    return nil, err
                end
                return nil
            end
            left = size
        end
        local size = tonumber(max) or default_size
        if size <= 0 or size > left then
            size = left
        end
        local part, err = sock:receive(size)
        if not part then
            return fail(err)
        end
        left = left - size
        if left == 0 then
            local line
            line, err = sock:receive("*l")
            if not line then
                return fail(err)
            end
            if line ~= "" then
                return fail("a chunk is longer than its size says")
            end
        end
        return part
    end
end


function _M.get_client_body_reader(_, chunk_size, sock, headers)
    chunk_size = tonumber(chunk_size) or DEFAULT_CHUNK_SIZE
    if not sock then
        if not (ngx and ngx.req) then
            return nil, "there is no client request outside of nginx"
        end
        local ok, err
        ok, sock, err = pcall(ngx.req.socket)
        if not ok then
            return nil, sock
        end
        if not sock then
            if err == "no body" then
                return nil
            end
            return nil, err
        end
    end
    headers = headers or ngx.req.get_headers()
    local length = tonumber(headers["Content-Length"])
    if length then
        return length_reader(sock, length, chunk_size)
    elseif _M.transfer_encoding_is_chunked(headers) then
        return chunked_reader(sock, chunk_size)
    end
    return nil
end


local function escape_byte(character)
    return format("%%%02X", byte(character))
end


function _M.proxy_request(self, chunk_size)
    -- nginx has decoded the path. What a request line cannot have, or would read differently, is
    -- encoded again.
    local body, err = _M.get_client_body_reader(self, chunk_size)
    if err then
        return nil, err
    end
    local path = gsub(ngx.var.uri, "[%c%s#%%<>?`]", escape_byte)
    return requests.request(self, {
        method = ngx.req.get_method(),
        path = path .. ngx.var.is_args .. (ngx.var.query_string or ""),
        body = body,
        headers = ngx.req.get_headers(),
    })
end


function _M.proxy_response(_, response, chunk_size)
    if not response then
        ngx.log(ngx.ERR, "no response provided")
        return
    end
    ngx.status = response.status
    for name, value in pairs(response.headers) do
        if not hop_by_hop[lower(name)] then
            ngx.header[name] = value
        end
    end
    while true do
        local chunk, err = response.body_reader(chunk_size)
        if err then
            ngx.log(ngx.ERR, err)
            -- Ends the connection where the body was cut off. To end the response as usual would
            -- pass a part on as the whole.
            return ngx.exit(ngx.ERROR)
        end
        if not chunk then
            return
        end
        local ok
        ok, err = ngx.print(chunk)
        if not ok then
            ngx.log(ngx.ERR, err)
            return
        end
    end
end


return _M
