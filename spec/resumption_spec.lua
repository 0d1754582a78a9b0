-- TLS sessions, as nginx tells of them in $ssl_session_reused.
local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local pack = require("spec.support.scripted").pack
local pin_of = require("spec.support.certs.pins").of
local places = require("spec.support.places")
local process = require("spec.support.process")
local seen_in = require("spec.support.nginx.upstream").parse
local secure = require("spec.support.secure")

-- Two listeners of one nginx, which share sessions: the second would resume those of the first.
local SECOND = "listen 127.0.0.1:${port.second} ssl;"

local WAYS = {
    ["TLS 1.2 with tickets"] = { protocols = "TLSv1.2" },
    ["TLS 1.2 with a session cache"] = {
        protocols = "TLSv1.2", tickets = "off", http = "ssl_session_cache shared:sessions:1m;",
    },
    ["TLS 1.3 with tickets"] = { protocols = "TLSv1.3" },
    ["TLS 1.3 with a session cache"] = {
        protocols = "TLSv1.3", tickets = "off", http = "ssl_session_cache shared:sessions:1m;",
    },
}


-- This process has given its one warning with this, so that it stands in nobody's way below.
require("resty.mtls.native").warn_unverified()


-- A new connection: "r" if it has resumed a session, "." if not; and what get_ssl_info says.
local function visit(server, options, port)
    local outcome = secure.call({ port = port or server.port }, options)
    assert.equals(200, outcome.status, outcome.err or outcome.body)
    assert.equals(0, outcome.reused)
    return seen_in(outcome.body).session_reused, outcome.ssl.resumed
end


for way, server_opts in pairs(WAYS) do
    describe("a TLS session (" .. way .. ")", function()
        local server

        before_each(function()
            server_opts.verify, server_opts.server = "optional", SECOND
            server = nginx.upstream(server_opts)
        end)

        after_each(function() server:stop() end)

        it("is resumed by the next connection", function()
            assert.same({ ".", false }, { visit(server) })
            for _ = 1, 3 do
                assert.same({ "r", true }, { visit(server) })
            end
        end)

        it("is resumed with a client certificate, which the server still knows", function()
            for _, expected in ipairs({ ".", "r", "r" }) do
                local seen = seen_in(secure.call(server, secure.as("client-a")).body)
                assert.equals(expected, seen.session_reused)
                assert.equals("CN=client-a,O=Example", seen.subject)
                assert.equals("SUCCESS", seen.verify)
            end
        end)

        it("is resumed under the same profile only", function()
            local function profiles()
                return {
                    {},
                    secure.as("client-a"),
                    secure.as("client-b"),
                    { ssl_trusted_certificate = certs.read("ca.crt")
                        .. certs.read("other-ca.crt") },
                    { ssl_trusted_certificate = { certs.path("ca.crt"),
                                                  certs.path("other-ca.crt") } },
                    { ssl_pinned_pubkey = pin_of("server") },
                    { ssl_pinned_pubkey = pin_of("server") .. ";" .. pin_of("client-a") },
                    { ssl_verify = false },
                    { ssl_server_name = "target.server" },
                    { ssl_min_version = server_opts.protocols,
                      ssl_max_version = server_opts.protocols },
                }
            end
            -- Each comes when the sessions of all before are there.
            for i, profile in ipairs(profiles()) do
                assert.equals(".", (visit(server, profile)), "profile " .. i)
            end
            for i, profile in ipairs(profiles()) do
                assert.equals("r", (visit(server, profile)), "profile " .. i)
            end
        end)

        it("does not get around the trust of another call", function()
            visit(server)
            assert.equals("server_certificate_untrusted", secure.code(server, {
                ssl_trusted_certificate = certs.path("other-ca.crt"),
            }))
            assert.equals("server_name_mismatch", secure.code(server, {
                ssl_server_name = "other.server",
            }))
            assert.equals("server_key_not_pinned", secure.code(server, {
                ssl_pinned_pubkey = pin_of("client-a"),
            }))
        end)

        it("is resumed with its own server only, of several with one name", function()
            local second = server.ports.second
            assert.equals(".", (visit(server)))
            assert.equals(".", (visit(server, nil, second)))
            for _ = 1, 3 do
                assert.equals("r", (visit(server)))
                assert.equals("r", (visit(server, nil, second)))
            end
        end)

        it("is not offered to the same server under another host", function()
            assert.equals(".", (visit(server, { ssl_server_name = "localhost" })))
            assert.equals(".", (visit(server, { host = "127.0.0.1",
                                                ssl_server_name = "localhost" })))
            assert.equals("r", (visit(server, { host = "127.0.0.1",
                                                ssl_server_name = "localhost" })))
        end)

        it("is resumed whatever ssl_reused_session says", function()
            visit(server)
            for _, value in ipairs({ true, false, "session", {} }) do
                local options = secure.options(server)
                options.ssl_reused_session = value
                local httpc = http.new()
                assert.same({ n = 3, true, nil, true }, pack(httpc:connect(options)))
                local res = assert(httpc:request({ path = "/echo" }))
                assert.equals("r", seen_in(assert(res:read_body())).session_reused)
                httpc:close()
            end
        end)
    end)
end


describe("a server without sessions", function()
    it("resumes none", function()
        local server = nginx.upstream({ protocols = "TLSv1.2", tickets = "off", verify = "off" })
        for _ = 1, 3 do
            assert.same({ ".", false }, { visit(server) })
        end
        server:stop()
    end)

    it("that forgets them costs a full handshake and nothing else", function()
        local server = nginx.upstream({ verify = "off" })
        assert.equals(".", (visit(server)))
        assert.equals("r", (visit(server)))
        -- New workers have new ticket keys; the old one must not take another connection.
        server:reload()
        process.wait_until("the old worker has gone", function()
            return #server:worker_pids() == 1
        end)
        assert.equals(".", (visit(server)))
        assert.equals("r", (visit(server)))
        server:stop()
    end)
end)


describe("connect", function()
    local server

    setup(function() server = nginx.upstream({ verify = "off" }) end)

    teardown(function() server:stop() end)

    it("returns true, nil, true for https, and true for http", function()
        local httpc = http.new()
        assert.same({ n = 3, true, nil, true }, pack(httpc:connect(secure.options(server))))
        assert.equals(1, httpc:set_keepalive())
        -- From the pool now.
        assert.same({ n = 3, true, nil, true }, pack(httpc:connect(secure.options(server))))
        assert.equals(1, httpc:get_reused_times())
        httpc:close()
        assert.same({ n = 1, true }, pack(httpc:connect({
            scheme = "http", host = "localhost", port = server.ports.plain,
        })))
        httpc:close()
    end)

    it("takes back what it has returned", function()
        local httpc, options = http.new(), secure.options(server)
        local _, _, session = assert(httpc:connect(options))
        httpc:close()
        options.ssl_reused_session = session
        assert(httpc:connect(options))
        httpc:close()
    end)
end)


for _, place in ipairs(places) do
    describe("http.stats in " .. place.name, function()
        it("counts full and resumed handshakes", function()
            local server = nginx.upstream({ verify = "off" })
            local output = place.run([[
                local http, secure = require("resty.mtls.http"), require("spec.support.secure")
                local function visit(options)
                    options.ssl_trusted_certificate = ${pem.ca.crt}
                    assert(secure.call({ port = ${up} }, options).status == 200)
                end
                local function count()
                    local stats = http.stats()
                    print(stats.handshakes_full, stats.handshakes_resumed)
                end
                count()
                visit({})
                count()
                for _ = 1, 3 do visit({}) end
                count()
                visit({ ssl_pinned_pubkey = "${pin}" })
                count()
                visit({ keep = true })
                visit({ keep = true })
                count()
            ]], { up = server.port, pin = pin_of("server") })
            server:stop()
            assert.equals("0\t0\n1\t0\n1\t3\n2\t3\n2\t4\n", output)
        end)
    end)
end
