--- The endpoint that plugins ask, inside nginx. It tells as JSON what it was asked.
--
-- The header X-Want asks for another answer, in the notation of a query: `status=403`, `body=no`,
-- `X-User-ID=alice` for a header.
local cjson = require("cjson")

local _M = {}

local seen = {}


--- The request that nginx is serving, as JSON.
---@return string
function _M.tell()
    ngx.req.read_body()
    local told = cjson.encode({
        method = ngx.req.get_method(), uri = ngx.var.request_uri, body = ngx.req.get_body_data(),
        headers = setmetatable(ngx.req.get_headers(0), nil), raw = ngx.req.raw_header(true),
        subject = ngx.var.ssl_client_s_dn, connection = ngx.var.connection,
    })
    seen[#seen + 1] = told
    return told
end


--- Answers the request that nginx is serving.
function _M.answer()
    local told = _M.tell()
    local wanted = ngx.decode_args(ngx.var.http_x_want or "")
    for name, value in pairs(wanted) do
        if name ~= "status" and name ~= "body" then
            ngx.header[name] = value
        end
    end
    ngx.status = tonumber(wanted.status) or 200
    ngx.print(wanted.body or told)
end


--- All requests so far, as a JSON array.
---@return string
function _M.seen()
    return "[" .. table.concat(seen, ",") .. "]"
end


return _M
