--- Runs inside of the gateways. Ways of calling that go well: requests one by one, bodies in all
--- forms, answers in parts.
local bodies = require("soak.body")

local _M = {}


function _M.uri(call)
    for _ = 1, call.random:upto(3) do
        local want = call:want()
        local params = call:uri_params(call:params(want))
        if call.random:one_in(3) then
            params.query = ngx.decode_args(params.query)
        end
        if call.random:one_in(3) then
            params.deadline = 60000
        end
        if call.random:one_in(6) then
            -- HTTP/2 does not send it.
            params.headers.Connection = "close"
        end
        local res = call:must(call:client():request_uri(call:uri() .. params.path, params))
        call:check(res, res.body, want)
    end
end


function _M.steps(call)
    local httpc = call:connected()
    for _ = 1, call.random:upto(4) do
        call:exchange(httpc, call:want())
    end
    call:give_back(httpc)
end


-- Reads a body part by part, up to so many bytes, and compares as it comes.
local function read_parts(call, res, want, upto)
    local expected = call:body_of(want, call:check_head(res, want))
    local size = call.random:pick({ 100, 4096, 65536, false })
    if size == 100 and #expected > 20000 then
        size = 8192
    end
    local position = 0
    while position < (upto or math.huge) do
        local part, err, details = res.body_reader(size or nil)
        if not part then
            if err then
                call:must(nil, err, details)
            end
            break
        end
        if size and #part > size then
            call:wrong("a part of %d bytes in place of %d", #part, size)
        end
        if expected:sub(position + 1, position + #part) ~= part then
            call:wrong("body of %d: a part behind byte %d is another one", want.id, position)
        end
        position = position + #part
    end
    if not upto and position ~= #expected then
        call:wrong("body of %d: %d bytes in place of %d", want.id, position, #expected)
    end
end


function _M.streamed(call)
    local httpc = call:connected()
    for _ = 1, call.random:upto(2) do
        local want = call:want()
        read_parts(call, call:must(httpc:request(call:params(want))), want)
    end
    call:give_back(httpc)
end


--- Leaves in the middle of a body.
function _M.left(call)
    local httpc = call:connected()
    local want = call:want({ n = call.random:upto(600000) })
    read_parts(call, call:must(httpc:request(call:params(want))), want, want.n / 3)
    if call.random:one_in(2) then
        httpc:close()
    else
        -- Says that something is unread, unless all of it has come.
        httpc:set_keepalive(500)
    end
end


function _M.statuses(call)
    local httpc = call:connected()
    for _ = 1, 3 do
        local want = call.random:pick({
            { method = "HEAD" }, { status = 204, n = 0 }, { status = 304, n = 0 },
            { status = 404 }, { status = 500 }, { method = "DELETE" }, { method = "OPTIONS" },
            { status = 302, more = "&to=/elsewhere" },
        })
        want = call:want(want)
        local res = call:must(httpc:request(call:params(want)))
        call:check(res, call:must(res:read_body()), want)
        if want.status == 302 and not tostring(res.headers.Location):find("/elsewhere$") then
            call:wrong("the redirect leads to %s", tostring(res.headers.Location))
        end
    end
    call:give_back(httpc)
end


local function in_pieces(call, body)
    local pieces, position = {}, 1
    while position <= #body do
        local size = call.random:upto(math.max(1000, math.floor(#body / 3)))
        pieces[#pieces + 1] = body:sub(position, position + size - 1)
        position = position + size
    end
    return pieces
end


local function iterator(pieces)
    local i = 0
    return function()
        i = i + 1
        if i % 4 == 2 then
            ngx.sleep(0.001)
        end
        return pieces[i]
    end
end


function _M.post(call)
    local httpc = call:connected()
    for _ = 1, call.random:upto(3) do
        local want = call:want({ method = call.random:pick({ "POST", "PUT", "PATCH" }),
                                 up = call:size() })
        local params = call:params(want)
        if want.up > 0 and call.random:one_in(2) then
            params.body = in_pieces(call, params.body)
        end
        call:exchange(httpc, want, params)
    end
    call:give_back(httpc)
end


function _M.iterator(call)
    local httpc = call:connected()
    local want = call:want({ method = "POST", up = call:size() + 1 })
    local params = call:params(want)
    params.body = iterator(in_pieces(call, params.body))
    if not call.target.http_version or call.random:one_in(2) then
        params.headers["Content-Length"] = want.up
    end
    call:exchange(httpc, want, params)
    call:give_back(httpc)
end


function _M.chunked(call)
    local httpc = call:connected()
    local want = call:want({ method = "POST", up = call:size() + 1 })
    local params = call:params(want)
    local chunks = {}
    for i, piece in ipairs(in_pieces(call, params.body)) do
        chunks[i] = string.format("%x\r\n%s\r\n", #piece, piece)
    end
    chunks[#chunks + 1] = "0\r\n\r\n"
    params.body = iterator(chunks)
    params.headers["Transfer-Encoding"] = "chunked"
    call:exchange(httpc, want, params)
    call:give_back(httpc)
end


function _M.expect(call)
    local httpc = call:connected()
    local want = call:want({ method = "PUT", up = call:size() + 1 })
    local params = call:params(want)
    params.headers.Expect = "100-continue"
    call:exchange(httpc, want, params)
    call:give_back(httpc)
end


local MIB = 1024 * 1024


function _M.large_down(call)
    local httpc = call:connected()
    local want = call:want({ n = call.random:between(MIB, 4 * MIB) })
    local res = call:must(httpc:request(call:params(want)))
    if call.random:one_in(2) then
        read_parts(call, res, want)
    else
        call:check(res, call:must(res:read_body()), want)
    end
    call:give_back(httpc)
end


--- Up and down at the same time, as far as the server does that.
function _M.large_up(call)
    local httpc = call:connected()
    local want = call:want({ method = "POST", up = call.random:between(MIB, 4 * MIB),
                             n = call.random:upto(MIB) })
    call:exchange(httpc, want)
    call:give_back(httpc)
end


function _M.trailers(call)
    local httpc = call:connected()
    local want = call:want({ path = "/trailers", how = "chunked" })
    local res = call:must(httpc:request(call:params(want)))
    call:check(res, call:must(res:read_body()), want)
    local _, err = res:read_trailers()
    if err or res.headers["X-Sum"] ~= tostring(want.id) then
        call:wrong("trailers of %d: %s, %s", want.id, tostring(res.headers["X-Sum"]),
                   tostring(err))
    end
    call:give_back(httpc)
end


function _M.slow(call)
    local httpc = call:connected()
    local want = call:want({ n = call.random:upto(20000) + 1, more = string.format(
        "&wait=%.3f&pause=%.3f", call.random:upto(250) / 1000, call.random:upto(250) / 1000) })
    call:exchange(httpc, want)
    call:give_back(httpc)
end


--- A server that is no nginx, and has no idea of ids: what it gets it gives back.
function _M.echoed(call)
    local httpc = call:connected()
    local want = call:want({ method = "POST", up = call:size() + 1 })
    local params = call:params(want)
    local res = call:must(httpc:request(params))
    local body = call:must(res:read_body())
    if res.status ~= 200 or body ~= params.body then
        call:wrong("the echo of %d (%s): %s", want.id, res.status,
                   bodies.difference(params.body, body))
    end
    call:give_back(httpc)
end


--- A request whose body comes from the client of the gateway.
function _M.pass(call)
    local httpc = call:connected()
    local res = call:must(httpc:proxy_request(call.random:pick({ 1000, 65536 })))
    httpc:proxy_response(res, call.random:pick({ 1000, 65536 }))
    call:give_back(httpc)
end


--- The functions of old, one by one.
function _M.handshake(call)
    local httpc = call:client()
    local port = call.settings.ports[call.target.server]
    call:must(httpc:connect("localhost", port, { pool = "old" }))
    -- These take no other form of identity.
    local identity = call.settings.identities["client-b"]
    call.who = { name = "client-b", subjects = { ["CN=client-b,O=Example"] = true } }
    call:must(httpc:tls_handshake({
        server_name = "localhost", client_cert = identity.cert, client_priv_key = identity.key,
        trusted_certificate = call.settings.ca,
    }))
    call:exchange(httpc, call:want())
    call:give_back(httpc)
end


--- A body that has not been asked for would be seen here.
function _M.apart(call)
    local httpc = call:connected()
    for _ = 1, call.random:upto(3) do
        local want = call:want({ up = call.random:upto(3000) - 1, method = "POST" })
        local params = call:params(want)
        call:must(httpc:send_request(params))
        local res = call:must(httpc:read_response(params))
        call:check(res, call:must(res:read_body()), want)
    end
    call:give_back(httpc)
end


return _M
