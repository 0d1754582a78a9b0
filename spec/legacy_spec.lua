--- The old forms: connect by position, with the TLS handshake as a step of its own.
local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")
local upstream = require("spec.support.nginx.upstream")

-- This process has given its one warning of unverified servers with this.
require("resty.mtls.native").warn_unverified()

local pack = scripted.pack

local server
local clients = {}


before_each(function() server = nginx.upstream({ verify = "optional" }) end)

after_each(function()
    for _, httpc in ipairs(clients) do
        httpc:close()
    end
    clients = {}
    scripted.finish()
    server:stop()
end)


local function client()
    local httpc = http.new()
    clients[#clients + 1] = httpc
    httpc:set_timeout(10000)
    return httpc
end


local function identity(name, more)
    local options = {
        server_name = "localhost", verify = true, trusted_certificate = certs.path("ca.crt"),
        client_cert = name and certs.read(name .. ".crt"),
        client_priv_key = name and certs.read(name .. ".key"),
    }
    for option, value in pairs(more or {}) do
        options[option] = value
    end
    return options
end


local function seen_by_server(httpc)
    local res = assert(httpc:request({ path = "/echo", headers = { Host = "target.server" } }))
    assert.equals(200, res.status)
    return upstream.parse(res:read_body())
end


-- Connects, does the handshake, and tells what the server saw, and how often the connection had
-- been used before.
local function visit(options, connect_options)
    local httpc = client()
    assert(httpc:connect("localhost", server.port, connect_options))
    assert(httpc:tls_handshake(options))
    local reused = httpc:get_reused_times()
    local seen = seen_by_server(httpc)
    assert.equals(1, httpc:set_keepalive())
    return seen.subject:match("CN=([^,]+)") or "nobody", reused
end


describe("connect by position", function()
    for _, name in ipairs({ "connect", "tcp_only_connect" }) do
        it("as " .. name .. " takes a host and a port", function()
            for _, port in ipairs({ server.ports.plain, tostring(server.ports.plain) }) do
                for _, options in ipairs({ false, {}, { pool = "mine", pool_size = 3 } }) do
                    local httpc = client()
                    local function connect()
                        return httpc[name](httpc, "localhost", port, options or nil)
                    end
                    assert.same({ n = 1, true }, pack(connect()))
                    assert.equals("", seen_by_server(httpc).protocol)
                end
            end
        end)

        it("as " .. name .. " takes a unix socket", function()
            for _, options in ipairs({ false, {}, { pool = "mine" } }) do
                local httpc = client()
                local path = "unix:" .. server.plain_socket
                assert.same({ n = 1, true }, pack(httpc[name](httpc, path, options or nil)))
                assert.equals("target.server", seen_by_server(httpc).host)
            end
        end)
    end

    it("keeps connections, by pool name too", function()
        local function reused(options)
            local httpc = client()
            assert(httpc:connect("localhost", server.ports.plain, options))
            local times = httpc:get_reused_times()
            seen_by_server(httpc)
            assert.same({ n = 1, 1 }, pack(httpc:set_keepalive(10000, 10)))
            return times
        end
        assert.same({ 0, 1, 2 }, { reused(), reused(), reused() })
        assert.same({ 0, 1 }, { reused({ pool = "a" }), reused({ pool = "a" }) })
        assert.same({ 0, 3 }, { reused({ pool = "b" }), reused() })
    end)

    it("tells why it fails, in three values", function()
        server:stop()
        local values = pack(client():connect("127.0.0.1", server.ports.plain))
        assert.matches("^connection refused", values[2])
        assert.same({ 3, "connect_refused" }, { values.n, values[3].code })
        for _, arguments in ipairs({ { "localhost" }, { "localhost", {} }, { nil, 80 },
                                     { "localhost", 0 }, { "localhost", "http" } }) do
            values = pack(client():connect(arguments[1], arguments[2]))
            assert.is_nil(values[1])
            assert.same({ 3, "bad_argument" }, { values.n, values[3].code })
        end
    end)

    it("shows where the client is connected to", function()
        local httpc = client()
        assert(httpc:connect("localhost", server.port))
        assert.same({ "localhost", server.port, true }, { httpc.host, httpc.port, httpc.keepalive })
        assert.falsy(httpc.ssl)
        assert(httpc:tls_handshake(identity("client-a")))
        assert.same({ "localhost", server.port, true }, { httpc.host, httpc.port, httpc.ssl })
        httpc = client()
        assert(httpc:connect({ scheme = "https", host = "localhost", port = server.port,
                               ssl_trusted_certificate = certs.path("ca.crt") }))
        assert.same({ "localhost", server.port, true }, { httpc.host, httpc.port, httpc.ssl })
        httpc = client()
        assert(httpc:connect({ scheme = "http", host = "localhost", port = server.ports.plain }))
        assert.falsy(httpc.ssl)
    end)

    it("shows whether the connection may be kept", function()
        for line, expected in pairs({ [""] = true, ["Connection: close\r\n"] = false,
                                      ["Connection: Keep-Alive\r\n"] = true }) do
            local httpc = scripted.answered("HTTP/1.1 200 OK\r\n" .. line
                                            .. "Content-Length: 0\r\n\r\n")
            assert(httpc:request({}))
            assert.equals(expected, httpc.keepalive)
        end
    end)
end)


describe("tls_handshake", function()
    it("proves the client certificate, by text and by path", function()
        assert.equals("client-a", (visit(identity("client-a"))))
        assert.equals("client-b", (visit(identity(nil, {
            client_cert_path = certs.path("client-b.crt"),
            client_priv_key_path = certs.path("client-b.key") }))))
        assert.equals("nobody", (visit(identity(nil))))
    end)

    it("returns one value, and needs a connection", function()
        local httpc = client()
        assert.is_nil((httpc:tls_handshake(identity("client-a"))))
        assert(httpc:connect("localhost", server.port))
        assert.same({ n = 1, true }, pack(httpc:tls_handshake(identity("client-a"))))
    end)

    it("works over a unix socket", function()
        local httpc = client()
        assert(httpc:connect("unix:" .. server.tls_socket))
        assert(httpc:tls_handshake(identity("client-a")))
        assert.equals("CN=client-a,O=Example", seen_by_server(httpc).subject)
    end)

    it("gives no connection of one identity to another, and uses its own again", function()
        assert.same({ "client-a", 0 }, { visit(identity("client-a")) })
        assert.same({ "client-b", 0 }, { visit(identity("client-b")) })
        assert.same({ "nobody", 0 }, { visit(identity(nil)) })
        assert.same({ "client-a", 1 }, { visit(identity("client-a")) })
        assert.same({ "client-b", 1 }, { visit(identity("client-b")) })
        assert.same({ "nobody", 1 }, { visit(identity(nil)) })
        assert.same({ "client-a", 2 }, { visit(identity("client-a")) })
        -- Not verified before, so not good enough for who verifies.
        assert.same({ "client-p384", 0 }, { visit(identity("client-p384", { verify = false })) })
        assert.same({ "client-p384", 0 }, { visit(identity("client-p384")) })
    end)

    it("shares connections under the same pool name only", function()
        assert.same({ "client-a", 0 }, { visit(identity("client-a"), { pool = "one" }) })
        assert.same({ "client-a", 0 }, { visit(identity("client-a"), { pool = "two" }) })
        assert.same({ "client-a", 1 }, { visit(identity("client-a"), { pool = "one" }) })
        assert.same({ "client-b", 0 }, { visit(identity("client-b"), { pool = "one" }) })
    end)

    it("does not pass a TLS connection to callers of connect alone", function()
        visit(identity("client-a"))
        local httpc = client()
        assert(httpc:connect("localhost", server.port))
        assert.equals(0, httpc:get_reused_times())
        -- nginx answers so to plain HTTP on a TLS port.
        assert.equals(400, assert(httpc:request({ path = "/echo" })).status)
    end)

    it("refuses half a pair, and a key of another certificate", function()
        for _, options in ipairs({
            { client_cert = certs.read("client-a.crt") },
            { client_priv_key = certs.read("client-a.key") },
            { client_cert_path = certs.path("client-a.crt") },
            { client_cert = certs.read("client-a.crt"),
              client_priv_key = certs.read("client-b.key") },
        }) do
            local httpc = client()
            assert(httpc:connect("localhost", server.port))
            local values = pack(httpc:tls_handshake(identity(nil, options)))
            assert.is_nil(values[1])
            assert.same({ 3, "options" }, { values.n, values[3].stage })
        end
    end)

    it("checks the server, and leaves no connection behind when it fails", function()
        local misnamed = scripted.serve({ tls = { cert = "server-wrong-name" },
                                          script = { peer.receive_to_end() } })
        for _, case in ipairs({
            { server.port, { trusted_certificate = certs.path("other-ca.crt") },
              "server_certificate_untrusted" },
            { misnamed.port, {}, "server_name_mismatch" },
            { misnamed.port, { server_name = false }, "server_name_mismatch" },
            { server.port, { server_name = "elsewhere.example" }, "server_name_mismatch" },
        }) do
            local httpc = client()
            assert(httpc:connect("localhost", case[1]))
            local values = pack(httpc:tls_handshake(identity("client-a", case[2])))
            assert.is_nil(values[1])
            assert.same({ 3, case[3] }, { values.n, values[3].code })
            assert.is_nil((httpc:request({})))
            assert.not_equals(1, (httpc:set_keepalive()))
        end
    end)
end)


describe("ssl_handshake", function()
    it("takes a session, a name and whether to verify", function()
        for _, session in ipairs({ false, true, "session" }) do
            local httpc = client()
            assert(httpc:connect("localhost", server.port))
            assert.same({ n = 1, true }, pack(httpc:ssl_handshake(session, "target.server",
                                                                  false)))
            local seen = seen_by_server(httpc)
            assert.same({ "target.server", "" }, { seen.server_name, seen.subject })
        end
    end)

    it("verifies unless it is told not to", function()
        for _, verify in ipairs({ true, "nothing" }) do
            local httpc = client()
            assert(httpc:connect("localhost", server.port))
            -- Not an expression: `and` and `or` would make nil of false.
            if verify == "nothing" then
                verify = nil
            end
            local values = pack(httpc:ssl_handshake(nil, nil, verify))
            assert.is_nil(values[1])
            assert.same({ 3, "server_certificate_untrusted" }, { values.n, values[3].code })
        end
    end)

    it("is given no connection that was proven to be somebody's", function()
        visit(identity("client-a", { verify = false }))
        local httpc = client()
        assert(httpc:connect("localhost", server.port))
        assert(httpc:ssl_handshake(true, "localhost", false))
        assert.equals(0, httpc:get_reused_times())
        assert.equals("", seen_by_server(httpc).subject)
        assert.equals(1, httpc:set_keepalive())
        assert.same({ "client-a", 1 }, { visit(identity("client-a", { verify = false })) })
    end)
end)
