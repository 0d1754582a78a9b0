--- Passing on what nginx serves: proxy_request, proxy_response and get_client_body_reader.
local client = require("spec.support.client")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")
local socket = require("socket")

local pack = scripted.pack

local SERVER = [[
    location /proxy {
        content_by_lua_block {
            local httpc = require("resty.mtls.http").new()
            assert(httpc:connect("127.0.0.1", tonumber(ngx.var.http_x_port)))
            local res, err = httpc:proxy_request(tonumber(ngx.var.http_x_chunk))
            if not res then
                ngx.status = 502
                ngx.print(err)
                return
            end
            httpc:proxy_response(res, tonumber(ngx.var.http_x_chunk))
            httpc:set_keepalive()
        }
    }
    location /no-response {
        content_by_lua_block { require("resty.mtls.http").proxy_response(nil, nil) }
    }
    location /read {
        content_by_lua_block {
            local http = require("resty.mtls.http")
            local self = ngx.var.arg_self == "none" and nil or http
            local reader, err = http.get_client_body_reader(self, tonumber(ngx.var.arg_chunk))
            if not reader then
                ngx.print(tostring(reader), " ", tostring(err))
                return
            end
            repeat
                local part, err = reader(tonumber(ngx.var.arg_max))
                ngx.print(part and #part or tostring(part) .. " " .. tostring(err), ";")
            until not part
        }
    }
    location /raw {
        content_by_lua_block {
            local sock = assert(ngx.req.socket(true))
            local reader = require("resty.mtls.http"):get_client_body_reader(4, sock)
            local parts = {}
            for part in reader do
                parts[#parts + 1] = part
            end
            sock:send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" .. table.concat(parts, "|"))
        }
    }
]]

local gateway


setup(function() gateway = nginx.gateway({ server = SERVER }) end)

teardown(function() gateway:stop() end)

after_each(scripted.finish)


-- Has the gateway pass a request on to a peer with this script.
local function pass_on(script, path, opts)
    local server = scripted.serve({ script = script })
    opts = opts or {}
    opts.headers = opts.headers or {}
    opts.headers["X-Port"] = tostring(server.port)
    return gateway:get(path, opts), server
end


-- Sends bytes to the gateway and returns all that it answers.
local function exchange_raw(bytes)
    local connection = assert(socket.connect("127.0.0.1", gateway.port))
    connection:settimeout(10)
    connection:send(bytes)
    local answer = assert(connection:receive("*a"))
    connection:close()
    return answer
end


local function answer(body, headers)
    return { peer.receive_until("\r\n\r\n"),
             peer.send("HTTP/1.1 200 OK\r\n" .. (headers or "") .. "Content-Length: " .. #body
                       .. "\r\n\r\n" .. body), peer.receive_to_end() }
end


describe("proxy_request", function()
    it("passes on method, path, query, headers and body", function()
        for _, chunk in ipairs({ "1", "4", "100000" }) do
            local script = answer("made")
            table.insert(script, 2, peer.receive_until("END"))
            local response, server = pass_on(script, "/proxy/x?a=1&b=%20", {
                method = "PUT", body = "the body END",
                headers = { ["X-Thing"] = "thing", ["X-Chunk"] = chunk, Host = "origin.test" },
            })
            assert.same({ 200, "made" }, { response.status, response.body })
            local wire = server:received(1)
            assert.matches("^PUT /proxy/x%?a=1&b=%%20 HTTP/1.1\r\n", wire)
            assert.matches("\r\nx-thing: thing\r\n", wire:lower(), 1, true)
            assert.matches("\r\nhost: origin.test\r\n", wire:lower(), 1, true)
            assert.matches("\r\ncontent-length: 12\r\n", wire:lower(), 1, true)
            assert.matches("\r\n\r\nthe body END$", wire)
        end
    end)

    it("passes on what nginx has decoded in a path as one path", function()
        for path, expected in pairs({
            ["/proxy/a%20b"] = "/proxy/a%20b", ["/proxy/a%3Fb"] = "/proxy/a%3Fb",
            ["/proxy/a%23b"] = "/proxy/a%23b", ["/proxy/a%25b"] = "/proxy/a%25b",
            ["/proxy/%0D%0AX-Evil:%201"] = "/proxy/%0D%0AX-Evil:%201", ["/proxy?"] = "/proxy",
        }) do
            local response, server = pass_on(answer("ok"), path)
            assert.equals(200, response.status)
            assert.equals(expected, server:received(1):match("^GET ([^ ?]*)%?? HTTP/1.1\r\n"))
        end
    end)

    it("passes on a body of many blocks", function()
        local upstream = nginx.upstream({ server = [[
            location /proxy {
                client_max_body_size 0;
                content_by_lua_block {
                    ngx.req.read_body()
                    local path = ngx.req.get_body_file()
                    ngx.print(ngx.md5(path and io.open(path, "rb"):read("*a")
                                      or ngx.req.get_body_data()))
                }
            }
        ]] })
        local body = ("0123456789abcde\n"):rep(100000)
        local response = gateway:get("/proxy", {
            body = body, headers = { ["X-Port"] = tostring(upstream.ports.plain) } })
        upstream:stop()
        assert.equals(gateway:run("return ngx.md5(('0123456789abcde\\n'):rep(100000))"),
                      response.body .. "\n")
    end)

    it("of a chunked body is an error, and no request that waits for one", function()
        local server = scripted.serve({ script = answer("taken for a whole request") })
        local got = exchange_raw("POST /proxy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            .. "X-Port: " .. server.port .. "\r\nTransfer-Encoding: chunked\r\n\r\n"
            .. "5\r\nhello\r\n0\r\n\r\n")
        assert.matches("^HTTP/1.1 502 ", got)
        assert.matches("chunked request bodies not supported", got, 1, true)
        assert.not_matches("POST", server:received(1) or "", 1, true)
    end)
end)


describe("proxy_response", function()
    it("answers with status, headers and body, but for what is for one connection", function()
        local response = pass_on({
            peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 404 Nothing\r\nX-Thing: thing\r\nSet-Cookie: a=1\r\n"
                      .. "Set-Cookie: b=2\r\nKeep-Alive: timeout=9\r\nUpgrade: h2c\r\n"
                      .. "Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n"
                      .. "Connection: keep-alive\r\n\r\n4\r\nnone\r\n0\r\n\r\n"),
            peer.receive_to_end(),
        }, "/proxy")
        assert.same({ 404, "none", "thing" }, { response.status, response.body,
                                                response.headers["x-thing"] })
        for _, name in ipairs({ "keep-alive", "upgrade", "proxy-authenticate" }) do
            assert.is_nil(response.headers[name])
        end
    end)

    it("answers with every value of a header", function()
        local server = scripted.serve({ script = answer("ok", "Set-Cookie: a=1\r\n"
                                                        .. "Set-Cookie: b=2\r\n") })
        local got = exchange_raw("GET /proxy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                                 .. "X-Port: " .. server.port .. "\r\n\r\n")
        assert.matches("\r\nSet-Cookie: a=1\r\n", got, 1, true)
        assert.matches("\r\nSet-Cookie: b=2\r\n", got, 1, true)
    end)

    it("answers HEAD without a body", function()
        local response, server = pass_on({ peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Thing: thing\r\n\r\n"),
            peer.receive_to_end() }, "/proxy", { method = "HEAD" })
        assert.same({ 200, "", "thing" }, { response.status, response.body,
                                            response.headers["x-thing"] })
        assert.matches("^HEAD ", server:received(1))
    end)

    it("logs that there is no response, or that its body broke off", function()
        gateway:get("/no-response")
        gateway:wait_for_log("%[error%][^\n]*no response provided")
        -- What was cut off is not passed on as a whole.
        assert.is_false((pcall(pass_on, { peer.receive_until("\r\n\r\n"), peer.send(
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhello") }, "/proxy")))
        gateway:wait_for_log("%[error%][^\n]*closed")
    end)
end)


describe("get_client_body_reader", function()
    it("reads a body of known length, in blocks", function()
        for _, self in ipairs({ "http", "none" }) do
            local function parts(arguments)
                return gateway:get("/read?self=" .. self .. arguments, { body = "0123456789" }).body
            end
            assert.equals("10;nil nil;", parts(""))
            assert.equals("4;4;2;nil nil;", parts("&chunk=4"))
            assert.equals("3;3;3;1;nil nil;", parts("&chunk=4&max=3"))
        end
    end)

    it("reads 64 KiB at a time unless told otherwise", function()
        assert.equals("65536;34464;nil nil;",
                      gateway:get("/read", { body = ("x"):rep(100000) }).body)
    end)

    it("gives nil without a body", function()
        assert.equals("nil nil", gateway:get("/read").body)
    end)

    it("tells that a chunked body cannot be had from nginx", function()
        local got = exchange_raw("POST /read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                                 .. "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert.matches("nil chunked request bodies not supported", got, 1, true)
    end)

    it("reads a chunked body from a raw socket", function()
        local got = exchange_raw("POST /raw HTTP/1.1\r\nHost: localhost\r\n"
            .. "Transfer-Encoding: chunked\r\n\r\n6;x=y\r\nabcdef\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n")
        assert.matches("\r\n\r\nabcd|ef|hi$", got)
    end)

    it("tells that the client has gone", function()
        local exchange = assert(client.send({
            port = gateway.port, path = "/read", headers = { ["Content-Length"] = "99" },
            method = "POST", body = "short",
        }))
        exchange.connection:shutdown("send")
        -- nginx may answer the end of a request body with nothing at all.
        local response = exchange:receive()
        assert.not_matches("99;", response and response.body or "", 1, true)
    end)
end)


describe("get_client_body_reader with a socket and headers of the caller's", function()
    -- As a cosocket that gives these bytes and then ends.
    local function sock_of(bytes)
        return { receive = function(_, what)
            local part, rest
            if what == "*l" then
                part, rest = bytes:match("^([^\n]*)\n(.*)$")
                part = part and part:gsub("\r", "")
            elseif #bytes >= what then
                part, rest = bytes:sub(1, what), bytes:sub(what + 1)
            end
            if not part then
                return nil, "closed", bytes
            end
            bytes = rest
            return part
        end }
    end

    local function parts_of(reader, ...)
        local parts = {}
        while true do
            local part, err = reader(...)
            if not part then
                -- The end stays the end.
                assert.is_nil((reader(...)))
                return parts, err
            end
            parts[#parts + 1] = part
        end
    end

    local CHUNKED = { ["Transfer-Encoding"] = "chunked" }

    it("reads by length", function()
        local reader = http:get_client_body_reader(4, sock_of("0123456789more"),
                                                   { ["Content-Length"] = "10" })
        assert.same({ { "0123", "4567", "89" } }, { parts_of(reader) })
        reader = http.get_client_body_reader(nil, nil, sock_of("abc"), { ["Content-Length"] = 3 })
        assert.same({ { "abc" } }, { parts_of(reader) })
    end)

    it("reads chunks", function()
        local bytes = "3\r\nabc\r\n5;x\r\ndefgh\r\n0\r\nX: y\r\n\r\n"
        assert.same({ { "abc", "defgh" } },
                    { parts_of(http:get_client_body_reader(99, sock_of(bytes), CHUNKED)) })
        assert.same({ { "ab", "c", "de", "fg", "h" } },
                    { parts_of(http:get_client_body_reader(2, sock_of(bytes), CHUNKED)) })
        assert.same({ { "abc", "defg", "h" } },
                    { parts_of(http:get_client_body_reader(2, sock_of(bytes), CHUNKED), 4) })
        assert.same({ {} },
                    { parts_of(http:get_client_body_reader(2, sock_of("0\r\n\r\n"), CHUNKED)) })
    end)

    it("gives nil where headers state no body", function()
        assert.same({ n = 1 }, pack(http:get_client_body_reader(4, sock_of("abc"), {})))
    end)

    it("tells what is wrong with a body", function()
        for bytes, expected in pairs({
            ["3\r\nab"] = "closed", ["3\r\nabc\r\n"] = "closed", ["3"] = "closed",
            ["x\r\nabc\r\n"] = "unable to read chunksize", ["\r\n"] = "unable to read chunksize",
            ["0x3\r\nabc\r\n"] = "unable to read chunksize",
            ["-3\r\nabc\r\n"] = "unable to read chunksize",
            ["ffffffffffffffff\r\n"] = "unable to read chunksize",
            ["3\r\nabcd\r\n0\r\n\r\n"] = "a chunk is longer than its size says",
        }) do
            local _, err = parts_of(http:get_client_body_reader(4, sock_of(bytes), CHUNKED))
            assert.equals(expected, err, bytes)
        end
        local parts, err = parts_of(http:get_client_body_reader(
            2, sock_of("abc"), { ["Content-Length"] = 5 }))
        assert.same({ { "ab" }, "closed" }, { parts, err })
    end)
end)
