--- Runs inside of the upstreams: answers a request with who asked, what was asked, and its body.
---
--- Arguments of a request: `id`; `n`, the bytes of body that it wants; `up`, the bytes that it
--- brings; `status`; `how` its body is framed ("length" or "chunked"); `wait` and `pause`, seconds
--- in front of the head and in the middle of the body; `to`, where a redirect leads.
local bodies = require("soak.body")

local _M = {}

local BLOCK = 65536

-- To see that a soak finds it: once in so many answers, one that belongs to another request.
local swaps, answers, last_id = 0, 0, nil


--- For init_by_lua.
---@param sabotage string? "swap" gives a request the answer of the one before, now and then
function _M.set_up(sabotage)
    swaps = sabotage == "swap" and 300 or 0
end


local function body_of_request()
    ngx.req.read_body()
    local body = ngx.req.get_body_data()
    local path = not body and ngx.req.get_body_file()
    if path then
        local file = assert(io.open(path, "rb"))
        body = file:read("*a")
        file:close()
    end
    return body or ""
end


-- What is wrong with the request, if something is.
local function complaint(arguments, body)
    local id = tonumber(arguments.id)
    if ngx.var.http_x_id ~= arguments.id then
        return "the header says " .. tostring(ngx.var.http_x_id) .. " and the path "
            .. tostring(arguments.id)
    end
    local expected = bodies.bytes(id, tonumber(arguments.up or 0))
    if body ~= expected then
        return "body: " .. bodies.difference(expected, body)
    end
end


local function swapped(id)
    answers = answers + 1
    local other = last_id
    last_id = id
    return swaps > 0 and answers % swaps == 0 and other or id
end


local function send(text)
    for first = 1, #text, BLOCK do
        -- Fails when the client has gone.
        if not ngx.print(text:sub(first, first + BLOCK - 1)) or not ngx.flush(true) then
            return
        end
    end
end


function _M.answer()
    local arguments = ngx.req.get_uri_args()
    local body = body_of_request()
    local problem = complaint(arguments, body)
    if problem then
        ngx.status = 460
        ngx.header["X-Id"] = arguments.id
        ngx.print(problem)
        return
    end
    if arguments.wait then
        ngx.sleep(tonumber(arguments.wait))
    end

    local id = swapped(tonumber(arguments.id))
    local subject = ngx.var.ssl_client_s_dn or ""
    ngx.status = tonumber(arguments.status or 200)
    ngx.header["X-Id"] = id
    ngx.header["X-Subject"] = subject
    ngx.header["X-Protocol"] = ngx.var.server_protocol
    ngx.header["X-Tls"] = ngx.var.ssl_protocol
    ngx.header["X-Resumed"] = ngx.var.ssl_session_reused
    ngx.header["X-Up"] = #body
    ngx.header["Location"] = arguments.to
    local text = id .. " " .. subject .. "\n" .. bodies.bytes(id, tonumber(arguments.n or 0))
    if arguments.how == "length" then
        ngx.header["Content-Length"] = #text
    end
    if ngx.status == 204 or ngx.status == 304 then
        ngx.header["Content-Length"] = nil
        return ngx.exit(ngx.status)
    end
    local half = arguments.pause and math.floor(#text / 2) or 0
    send(text:sub(1, half))
    if half > 0 then
        ngx.sleep(tonumber(arguments.pause))
    end
    send(text:sub(half + 1))
end


return _M
