-- HTTP/2 along every way to a server, and the time that each step may take.
local certs = require("spec.support.certs")
local frames = require("spec.support.frames")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")
local squid = require("spec.support.squid")
local upstream_of = require("spec.support.nginx.upstream")

-- Milliseconds: what runs out here, and what does not.
local SHORT, LONG = 200, 10000


after_each(scripted.finish)


describe("a server of HTTP/2", function()
    local server

    setup(function()
        server = nginx.upstream({
            listen = "http2", server = "listen unix:${dir}/h2c.sock http2;",
        })
    end)

    teardown(function() server:stop() end)

    local function options(more)
        local given = {
            scheme = "https", host = "localhost", port = server.port, http_version = 2,
            ssl_trusted_certificate = certs.path("ca.crt"),
            ssl_cert_path = certs.path("client-a.crt"), ssl_key_path = certs.path("client-a.key"),
        }
        for name, value in pairs(more) do
            given[name] = value
        end
        return given
    end

    local function seen_through(given, params)
        local httpc = http.new()
        httpc:set_timeout(LONG)
        assert(httpc:connect(given))
        params = params or {}
        params.path = "/echo"
        local seen = upstream_of.parse(assert(assert(httpc:request(params)):read_body()))
        assert.equals("HTTP/2.0", seen.http)
        seen.reused = httpc:get_reused_times()
        assert.equals(1, httpc:set_keepalive())
        return seen
    end

    it("is reached through a tunnel, whatever the proxy speaks", function()
        local proxy = squid.start()
        local ways = {
            ["http://"] = { https_proxy = proxy:uri("open") },
            ["https://"] = { https_proxy = proxy:uri("tls") },
            ["with credentials"] = { https_proxy = proxy:uri("guarded", "alice:secret@") },
        }
        local connections = {}
        for name, way in pairs(ways) do
            for reused = 0, 1 do
                local seen = seen_through(options({ proxy_opts = way }))
                assert.equals("CN=client-a,O=Example", seen.subject, name)
                assert.equals(reused, seen.reused, name)
                connections[seen.connection] = name
            end
        end
        local count = 0
        for _ in pairs(connections) do
            count = count + 1
        end
        assert.equals(3, count)
        proxy:stop()
    end)

    it("is reached over unix sockets", function()
        local named = { headers = { Host = "localhost" } }
        local seen = seen_through({ host = "unix:" .. server.dir .. "/h2c.sock",
                                    http_version = 2 }, named)
        assert.equals("localhost", seen.host)
        seen = seen_through(options({ host = "unix:" .. server.tls_socket,
                                      ssl_server_name = "target.server" }), named)
        assert.equals("CN=client-a,O=Example", seen.subject)
        assert.equals("target.server", seen.server_name)
    end)

    it("over a unix socket has to be told a host", function()
        local httpc = http.new()
        httpc:set_timeout(LONG)
        assert(httpc:connect({ host = "unix:" .. server.dir .. "/h2c.sock", http_version = 2 }))
        local res, err, details = httpc:request({ path = "/echo" })
        assert.is_nil(res)
        assert.matches("Host header", err, 1, true)
        assert.equals("bad_argument", details.code)
        httpc:close()
    end)
end)


-- What a server that says nothing more makes of a request, by the step that it is silent in.
local STEPS = {
    {
        name = "its settings", code = "connect_timeout", stage = "connect",
        script = { peer.hang() },
    },
    {
        name = "the room for a body", code = "send_timeout", stage = "send",
        script = { peer.send(frames.SETTINGS), peer.hang() },
        params = { method = "PUT", body = ("x"):rep(100000) },
    },
    {
        name = "the head of a response", code = "read_timeout", stage = "response",
        script = { peer.send(frames.SETTINGS), peer.hang() },
    },
    {
        name = "the end of interim responses", code = "read_timeout", stage = "response",
        script = { peer.send(frames.SETTINGS), frames.await_request(1),
                   peer.send((frames.headers(1):gsub("200", "103"))), peer.hang() },
    },
    {
        name = "the body", code = "read_timeout", stage = "body",
        script = { peer.send(frames.SETTINGS), frames.await_request(1),
                   peer.send(frames.headers(1) .. frames.data(1, "some")), peer.hang() },
    },
    {
        name = "trailers", code = "read_timeout", stage = "body",
        script = { peer.send(frames.SETTINGS), frames.await_request(1),
                   peer.send(frames.headers(1, { { "content-length", "4" } })
                       .. frames.data(1, "some")), peer.hang() },
    },
}

describe("a server of HTTP/2 that is silent", function()
    local function request(step, times, deadline)
        local server = scripted.serve({ script = step.script })
        local httpc = http.new()
        httpc:set_timeouts(times[1], times[2], times[3])
        local params = { http_version = 2, deadline = deadline }
        for name, value in pairs(step.params or {}) do
            params[name] = value
        end
        return httpc:request_uri("http://localhost:" .. server.port .. "/", params)
    end

    local TIME_OF = { connect = 1, send = 2, response = 3, body = 3 }

    for _, step in ipairs(STEPS) do
        it("about " .. step.name .. " is waited for as long as that step may take", function()
            local times = { LONG, LONG, LONG }
            times[TIME_OF[step.stage]] = SHORT
            local res, err, details = request(step, times)
            assert.is_nil(res)
            assert.equals("timeout", err)
            assert.equals(step.code, details.code)
            assert.equals(step.stage, details.stage)
            assert.not_matches("deadline", details.hint)
        end)

        it("about " .. step.name .. " is waited for until the deadline", function()
            local res, err, details = request(step, { LONG, LONG, LONG }, SHORT)
            assert.is_nil(res)
            assert.equals("timeout", err)
            assert.equals(step.code, details.code)
            assert.matches("deadline", details.hint, 1, true)
        end)
    end
end)


describe("a bound on the places of HTTP/2", function()
    it("counts clients, not connections", function()
        local server = scripted.serve({ script = {
            peer.send(frames.SETTINGS), frames.await_request(1),
            peer.send(frames.response(1, "whole")), peer.receive_to_end(),
        } })
        local options = { scheme = "http", host = "localhost", port = server.port,
                          http_version = 2, pool_size = 2, backlog = 0 }
        local clients = {}
        for i = 1, 3 do
            clients[i] = http.new()
            clients[i]:set_timeout(LONG)
        end
        assert(clients[1]:connect(options))
        assert(clients[2]:connect(options))
        local ok, err, details = clients[3]:connect(options)
        assert.is_nil(ok)
        assert.equals("too many waiting connect operations", err)
        assert.equals("too_many_waiting", details.code)
        assert.equals("whole", assert(clients[1]:request({})):read_body())
        assert.equals(1, clients[1]:set_keepalive())
        assert(clients[3]:connect(options))
        assert.equals(2, clients[3]:get_reused_times())
        assert.equals(1, server:connections())
        clients[2]:close()
        clients[3]:close()
    end)
end)
