local certs = require("spec.support.certs")
local full_listener = require("spec.support.full_listener")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local system = require("system")

local HEAD = peer.receive_until("\r\n\r\n")

-- Milliseconds. What must not run out has far longer than it needs.
local SHORT, LONG = 200, 20000
-- Seconds in which a short deadline has passed for certain. No verdict hangs on less.
local BOUND = 10

local server


after_each(function()
    if server then
        server:stop()
        server = nil
    end
end)


local function client()
    local httpc = http.new()
    httpc:set_timeout(LONG)
    return httpc
end


local function uri(scheme, path)
    return (scheme or "http") .. "://127.0.0.1:" .. server.port .. (path or "/")
end


-- A request with a short deadline, which has to end for it.
local function assert_ends(code, stage, httpc, scheme, params)
    params = params or {}
    params.deadline = params.deadline or SHORT
    params.ssl_trusted_certificate = scheme == "https" and certs.path("ca.crt") or nil
    local started = system.monotime()
    local res, err, details = httpc:request_uri(uri(scheme), params)
    local seconds = system.monotime() - started
    assert.is_true(seconds < BOUND, "it took " .. seconds .. " s")
    assert.is_true(seconds * 1000 > params.deadline * 0.9, "it took only " .. seconds .. " s")
    assert.is_nil(res)
    assert.equals("timeout", err)
    assert.equals(code, details.code)
    assert.equals(stage, details.stage)
end


-- Neither here nor at the other side.
local function assert_nothing_left(httpc)
    assert.is_nil((httpc:get_reused_times()))
    process.wait_until("nothing is left", function()
        -- Another spec may have dropped a client with its connection.
        collectgarbage()
        local stats = http.stats()
        return stats.operations_in_flight == 0
            and stats.connections_open == stats.connections_idle
    end)
    if server.wait_for_event then
        server:wait_for_event("1 read: ")
    end
end


local function answer(body)
    return peer.send("HTTP/1.1 200 OK\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body)
end


describe("a deadline", function()
    it("bounds the connection", function()
        server = full_listener()
        local httpc = client()
        assert_ends("connect_timeout", "connect", httpc)
        assert_nothing_left(httpc)
    end)

    it("bounds the TLS handshake", function()
        server = peer.start({ script = { peer.receive_to_end() } })
        local httpc = client()
        assert_ends("tls_timeout", "tls", httpc, "https")
        assert_nothing_left(httpc)
    end)

    it("bounds a proxy's answer", function()
        server = peer.start({ script = { peer.receive_to_end() } })
        local httpc = client()
        httpc:set_proxy_options({ https_proxy = uri() })
        assert_ends("connect_timeout", "proxy", httpc, "https")
        assert_nothing_left(httpc)
    end)

    for name, tls in pairs({ ["plain"] = false, ["TLS"] = {} }) do
        local scheme = tls and "https" or "http"

        it("bounds the wait for the response, " .. name, function()
            server = peer.start({ script = { HEAD, peer.receive_to_end() }, tls = tls or nil })
            local httpc = client()
            assert_ends("read_timeout", "response", httpc, scheme)
            assert_nothing_left(httpc)
        end)

        it("bounds a response head that drips, " .. name, function()
            server = peer.start({ tls = tls or nil, script = {
                HEAD, peer.drip("HTTP/1.1 200 OK\r\nX: " .. ("x"):rep(1000), 0.03),
            } })
            assert_ends("read_timeout", "response", client(), scheme)
        end)

        it("bounds a body that drips, " .. name, function()
            server = peer.start({ tls = tls or nil, script = {
                HEAD, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
                peer.drip(("x"):rep(1000), 0.03),
            } })
            assert_ends("read_timeout", "body", client(), scheme)
        end)
    end

    it("bounds a chunked body that drips", function()
        server = peer.start({ script = {
            HEAD, peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
            peer.drip(("1\r\nx\r\n"):rep(1000), 0.005),
        } })
        assert_ends("read_timeout", "body", client())
    end)

    it("bounds a body that comes fast and without an end", function()
        server = nginx.upstream({ server = [[
            location / {
                content_by_lua_block {
                    local block = ("0123456789abcdef"):rep(4096)
                    repeat ngx.print(block) until not ngx.flush(true)
                }
            }
        ]] })
        server.port = server.ports.plain
        local ended, deadline = 0, 100
        while ended < 5 do
            -- Far more than comes in that time; what comes without a bound fills the memory.
            local params = { deadline = deadline, max_body_size = deadline * 2.5e6 }
            local res, err, details = client():request_uri(uri(), params)
            assert.is_nil(res)
            assert.equals("timeout", err)
            assert.equals("read_timeout", details.code)
            if details.stage == "body" then
                ended = ended + 1
            else
                -- The server had no turn in that time.
                deadline = 2 * deadline
                assert.is_true(deadline < 1000 * BOUND)
            end
        end
    end)

    it("bounds interim responses without an end", function()
        server = peer.start({ script = {
            HEAD, peer.drip(("HTTP/1.1 103 x\r\n\r\n"):rep(60), 0.01),
        } })
        assert_ends("read_timeout", "response", client())
    end)

    it("bounds the sending of a body that nobody reads", function()
        server = peer.start({ script = { HEAD, peer.hang() } })
        assert_ends("send_timeout", "send", client(), "http", {
            method = "PUT", body = ("x"):rep(20000000),
        })
    end)

    it("bounds a body that an iterator gives slowly", function()
        server = peer.start({ script = { HEAD, peer.receive_to_end() } })
        local count = 0
        local httpc = client()
        assert_ends("read_timeout", "response", httpc, "http", {
            method = "PUT", headers = { ["Content-Length"] = 8 },
            body = function()
                count = count + 1
                system.sleep(0.05)
                return count <= 8 and "x" or nil
            end,
        })
        assert_nothing_left(httpc)
    end)

    it("counts the steps together", function()
        -- Each of them alone is quick enough.
        server = peer.start({ script = {
            HEAD, peer.sleep(0.3), peer.send("HTTP/1.1 103 x\r\n\r\n"),
            peer.sleep(0.3), peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
            peer.sleep(0.3), peer.send("half"), peer.sleep(0.3), peer.send("half2"),
        } })
        local res, err = client():request_uri(uri(), { deadline = 900 })
        assert.is_nil(res)
        assert.equals("timeout", err)
    end)

    it("does not stretch a time-out that is shorter", function()
        server = peer.start({ script = { HEAD, peer.hang() } })
        local httpc = client()
        httpc:set_timeouts(LONG, LONG, 200)
        local started = system.monotime()
        local res, err = httpc:request_uri(uri(), { deadline = LONG })
        assert.is_nil(res)
        assert.equals("timeout", err)
        assert.is_true(system.monotime() - started < BOUND)
    end)

    it("that is not reached changes nothing", function()
        server = peer.start({ script = { HEAD, answer("one"), HEAD, answer("two"),
                                         peer.receive_to_end() } })
        local httpc = client()
        for _, body in ipairs({ "one", "two" }) do
            assert.equals(body, assert(httpc:request_uri(uri(), { deadline = LONG })).body)
        end
        assert.equals(1, server:connections())
    end)

    it("keeps the connection out of the pool when it was reached", function()
        server = peer.start({ scripts = { { HEAD, peer.receive_to_end() },
                                          { HEAD, answer("two"), peer.receive_to_end() } } })
        local httpc = client()
        assert_ends("read_timeout", "response", httpc)
        assert.equals("two", assert(httpc:request_uri(uri())).body)
    end)
end)


describe("after a request with a deadline", function()
    -- Waits longer than the deadline, then asks for something that takes a while.
    local function assert_forgotten(httpc)
        system.sleep(SHORT / 1000)
        local res, err = httpc:request_uri(uri())
        assert.truthy(res, err)
        assert.equals("late", res.body)
    end

    local LATE = { HEAD, peer.sleep(0.05), answer("late"), peer.receive_to_end() }

    it("that succeeded there is none", function()
        server = peer.start({ scripts = { { HEAD, answer("one") }, LATE } })
        local httpc = client()
        assert.equals("one", assert(httpc:request_uri(uri(), { deadline = SHORT,
                                                               keepalive = false })).body)
        assert_forgotten(httpc)
    end)

    it("that failed there is none", function()
        server = peer.start({ scripts = { { HEAD, peer.send("nonsense\r\n\r\n") }, LATE } })
        local httpc = client()
        assert.is_nil((httpc:request_uri(uri(), { deadline = SHORT })))
        assert_forgotten(httpc)
    end)

    it("whose body raised an error there is none", function()
        server = peer.start({ scripts = { { HEAD, peer.receive_to_end() }, LATE } })
        local httpc = client()
        local ok, res = pcall(httpc.request_uri, httpc, uri(), {
            deadline = SHORT, method = "PUT", headers = { ["Content-Length"] = 1 },
            body = function() error("oh no") end,
        })
        assert.is_falsy(ok and res)
        assert_forgotten(httpc)
    end)

    it("whose light thread was killed there is none", function()
        server = peer.start({ scripts = { { HEAD, peer.receive_to_end() }, LATE } })
        assert.equals("late\n", nginx.run_lua(prelude .. [[
            local httpc = http.new()
            local uri = "http://127.0.0.1:${up}"
            local thread = ngx.thread.spawn(httpc.request_uri, httpc, uri, { deadline = 100 })
            assert(wait_until(function() return stats().requests == 1 end))
            ngx.thread.kill(thread)
            ngx.sleep(0.1)
            print(assert(httpc:request_uri(uri)).body)
        ]], { vars = { up = server.port } }))
    end)
end)


describe("a bad deadline", function()
    for _, value in ipairs({ 0, -1, 0.5, "100", true, {}, 0 / 0 }) do
        it("is named: " .. type(value) .. " " .. tostring(value):gsub("0x%x+", ""), function()
            local res, err, details = client():request_uri("http://127.0.0.1:1/",
                                                           { deadline = value })
            assert.is_nil(res)
            assert.matches("'deadline'", err)
            assert.equals("bad_argument", details.code)
        end)
    end

    it("is not one that is far away", function()
        server = peer.start({ script = { HEAD, answer("one"), peer.receive_to_end() } })
        assert.equals("one", assert(client():request_uri(uri(), { deadline = math.huge })).body)
    end)
end)
