-- What http.debug(true) logs: each step, on one line, and nothing that is secret.
local certs = require("spec.support.certs")
local frames = require("spec.support.frames")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local places = require("spec.support.places")
local scripted = require("spec.support.scripted")
local squid = require("spec.support.squid")
local tells_no_secret = require("spec.support.identity").assert_tells_no_secret

local PRELUDE = [[
    local http = require("resty.mtls.http")
    http.debug(true)
    local httpc = http.new()
    httpc:set_timeout(10000)
    local target = {
        scheme = "https", host = "localhost", port = ${port},
        ssl_trusted_certificate = "${cert.ca.crt}",
        ssl_cert_path = "${cert.client-a.crt}", ssl_key_path = "${cert.client-a.key}",
    }
]]

local upstream, proxy

setup(function()
    upstream = nginx.upstream({ listen = "http2", server = [[
        location /cookie {
            add_header Set-Cookie "session=s3cr3t";
            add_header Location "https://user:s3cr3t@elsewhere/?s3cr3t";
            return 200 "s3cr3t body";
        }
    ]] })
    proxy = squid.start()
end)

teardown(function()
    upstream:stop()
    proxy:stop()
end)

after_each(scripted.finish)


-- The lines that a chunk makes in nginx, without what nginx puts around them.
local function lines_of(code, vars)
    local gateway = nginx.gateway({ log_level = "debug" })
    local given = { port = upstream.port }
    for name, value in pairs(vars or {}) do
        given[name] = value
    end
    local ok, err = pcall(gateway.run, gateway, PRELUDE .. code, { vars = given })
    gateway:stop()
    assert(ok, err)
    local lines = {}
    for line in gateway:error_log():gmatch("%[debug%][^\n]*resty%.mtls: ([^\n]*)") do
        lines[#lines + 1] = line:gsub(", client: .*", "")
    end
    return lines, gateway:error_log()
end


-- The lines are these, one after the other; each is a pattern.
local function assert_lines(patterns, lines)
    for i, pattern in ipairs(patterns) do
        assert.matches("^" .. pattern .. "$", lines[i] or "(nothing)")
    end
    assert.equals(#patterns, #lines, table.concat(lines, "\n"))
end


describe("debug", function()
    it("shows each step of a request over mutual TLS, and of one on the same connection", function()
        assert_lines({
            "connect to localhost:%d+",
            "name resolved in [%d.]+ ms",
            "connected to 127%.0%.0%.1:%d+ in [%d.]+ ms",
            "TLS handshake in [%d.]+ ms: TLSv1%.3, TLS_[%w_]+, full, ALPN http/1%.1, "
                .. "client certificate sent: O=Example, CN=client%-a",
            "request: GET /echo HTTP/1%.1; Host: localhost:%d+; User%-Agent: [^;]+",
            "response: 200 OK, first byte after [%d.]+ ms; .*Content%-Length: %d+; .*",
            "body complete: %d+ bytes; [%d.]+ ms in all",
            "connection kept for the next request",
            "connect to localhost:%d+",
            "connection to 127%.0%.0%.1:%d+ taken from the pool, used 1 times before",
            "request: GET /echo HTTP/1%.1; .*",
            "response: 200 OK, .*",
            "body complete; [%d.]+ ms in all",
            "connection closed by the caller",
        }, (lines_of([[
            assert(httpc:connect(target))
            assert(assert(httpc:request({ path = "/echo" })):read_body())
            assert(httpc:set_keepalive() == 1)
            assert(httpc:connect(target))
            local res = assert(httpc:request({ path = "/echo" }))
            while res.body_reader(64) do end
            httpc:close()
        ]])))
    end)

    it("shows resumption and HTTP/2", function()
        local lines = lines_of([[
            local function get(options)
                assert(httpc:connect(options))
                assert(assert(httpc:request({ path = "/echo" })):read_body())
                httpc:close()
            end
            get(target)
            get(target)
            target.http_version = 2
            get(target)
        ]])
        local text = table.concat(lines, "\n")
        assert.matches(" full, ALPN http/1.1, client certificate sent: O=Example, CN=client-a",
                       text, 1, true)
        assert.matches(" resumed, ALPN http/1.1, resumed as O=Example, CN=client-a", text, 1, true)
        assert.matches(" full, ALPN h2, client certificate sent: O=Example, CN=client-a", text,
                       1, true)
    end)

    it("shows the tunnel through a proxy, without its credentials", function()
        local lines, log = lines_of([[
            assert(httpc:connect(setmetatable({ proxy_opts = {
                https_proxy = "http://alice:secret@localhost:${proxy}",
            } }, { __index = target })))
            httpc:close()
        ]], { proxy = proxy.ports.guarded })
        local text = table.concat(lines, "\n")
        assert.matches("connected to 127.0.0.1:" .. proxy.ports.guarded, text, 1, true)
        assert.matches("tunnel through the proxy localhost:" .. proxy.ports.guarded .. " is open",
                       text, 1, true)
        assert.not_matches("secret", log, 1, true)
        -- alice:secret
        assert.not_matches("YWxpY2U6c2VjcmV0", log, 1, true)
    end)

    it("shows how far a call came that failed, and why", function()
        local text = table.concat(lines_of([[
            assert(not http.new():connect({ scheme = "https", host = "localhost",
                                            port = ${port}, ssl_cert_path = target.ssl_cert_path,
                                            ssl_key_path = target.ssl_key_path }))
            assert(not http.new():connect({ scheme = "http", host = "unix:/nowhere" }))
        ]]), "\n")
        assert.matches("connected to 127.0.0.1:" .. upstream.port, text, 1, true)
        assert.matches("failed: handshake failed: certificate verify failed: [^\n]* "
                       .. "%(server_certificate_untrusted, tls%)", text)
        assert.matches("failed: failed to connect to unix:/nowhere: [^\n]*"
                       .. "%(connect_failed, connect%)$", text)
    end)

    it("shows the alert of a server that rejects the client, and retries", function()
        local server = scripted.serve({ tls = { client_ca = "ca", version = "1.3" },
                                        script = { peer.hang() } })
        local text = table.concat(lines_of([[
            assert(not httpc:request_uri("https://localhost:${port}/", {
                ssl_trusted_certificate = target.ssl_trusted_certificate }))
        ]], { port = server.port }), "\n")
        assert.matches("client certificate asked for, none given", text, 1, true)
        assert.matches("(client_certificate_required, response), TLS alert 116", text, 1, true)

        server = scripted.serve({ tls = {}, script = { peer.hang() } })
        text = table.concat(lines_of([[
            target.port = ${port}
            assert(httpc:connect(target))
        ]], { port = server.port }), "\n")
        assert.matches(" full, ALPN none, client certificate not asked for", text, 1, true)

        local head = peer.receive_until("\r\n\r\n")
        local answer = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        server = scripted.serve({ scripts = {
            { head, answer, head, peer.close() }, { head, answer, peer.hang() },
        } })
        text = table.concat(lines_of([[
            assert(httpc:request_uri("http://localhost:${port}/"))
            assert(httpc:request_uri("http://localhost:${port}/"))
        ]], { port = server.port }), "\n")
        assert.matches("the request was sent again, on another connection\nresponse: 200 OK",
                       text, 1, true)
    end)

    it("tells why a connection is not kept", function()
        local lines = lines_of([[
            assert(httpc:connect(target))
            assert(httpc:request({ path = "/echo", headers = { Connection = "close" } }))
            httpc:set_keepalive()
            assert(httpc:connect(target))
            assert(httpc:request({ path = "/bytes?n=1000000" }))
            httpc:set_keepalive()
            httpc:set_keepalive()
        ]])
        local text = table.concat(lines, "\n")
        assert.matches("connection closed by the caller", text, 1, true)
        assert.matches("connection closed: the response has not been read to its end\n"
                       .. "there was no connection to keep", text, 1, true)
    end)

    it("shows nothing that is secret", function()
        local lines, log = lines_of([[
            local key = ${pem.client-a.key}
            assert(httpc:request_uri("https://localhost:${port}/cookie?s3cr3t", {
                method = "POST", body = "s3cr3t", query = "token=s3cr3t",
                headers = { Authorization = "Bearer s3cr3t", Cookie = "session=s3cr3t",
                            ["Proxy-Authorization"] = "Basic s3cr3t", ["X-Api-Key"] = "s3cr3t" },
                ssl_cert = ${pem.client-a.crt}, ssl_key = key,
                ssl_trusted_certificate = target.ssl_trusted_certificate,
            }))
            httpc:connect({ scheme = "https", host = "user:s3cr3t@localhost", port = ${port} })
            httpc:connect({ scheme = "https", host = "localhost", port = ${port},
                            ssl_cert_path = key, ssl_key_path = key })
            httpc:connect({ scheme = "https", host = "localhost", port = ${port},
                            ssl_cert = ${pem.client-a.crt}, ssl_key_password = "s3cr3t",
                            ssl_key = ${pem.client-a.encrypted.key} })
            httpc:connect({ scheme = "https", host = "localhost", port = ${port},
                            ssl_cert = ${pem.client-a.crt}, ssl_key_password = "${passphrase}",
                            ssl_key = ${pem.client-a.encrypted.key} })
            httpc:request_uri("https://user:s3cr3t@localhost/?s3cr3t")
            httpc:request_uri("https://localhost:${port}/\1?s3cr3t", target)
            httpc:request_uri("nonsense?s3cr3t")
        ]], { passphrase = certs.PASSPHRASE })
        local text = table.concat(lines, "\n")
        assert.matches("request: POST /cookie?(redacted) HTTP/1.1; ", text, 1, true)
        for _, name in ipairs({ "Authorization", "Cookie", "X-Api-Key", "Set-Cookie",
                                "Location" }) do
            assert.matches("; " .. name .. ": (redacted)", text, 1, true)
        end
        assert.not_matches("s3cr3t", log, 1, true)
        tells_no_secret(log, { key = certs.read("client-a.key"),
                               encrypted = certs.read("client-a.encrypted.key"),
                               ssl_key_password = certs.PASSPHRASE })
    end)

    it("has one line for each step, whatever a server says", function()
        -- U+009B begins an escape sequence of terminals. Those that begin with ESC are refused.
        local server = scripted.serve({ script = {
            peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 200 OK\r\nServer: \194\1552J\" \\ forged\r\n"
                      .. "Content-Length: 0\r\n\r\n"), peer.hang(),
        } })
        local lines, log = lines_of([[
            assert(httpc:request_uri("http://localhost:${port}/"))
        ]], { port = server.port })
        assert.not_matches("[\27\194\155]", log)
        assert.matches([[; Server: \xC2\x9B2J\" \\ forged]], table.concat(lines, "\n"), 1, true)
    end)

    it("is off unless it is turned on", function()
        assert.same({}, (lines_of([[
            http.debug(false)
            assert(httpc:request_uri("https://localhost:${port}/echo", target))
        ]])))
    end)
end)


for _, place in ipairs(places) do
    it("debug shows the steps of HTTP/2 without TLS in " .. place.name, function()
        local server = scripted.serve({ script = {
            peer.send(frames.SETTINGS), frames.await_request(1),
            peer.send(frames.response(1, "body")), peer.receive_to_end(),
        } })
        local _, log = place.run([[
            local http = require("resty.mtls.http")
            http.debug(true)
            assert(http.new():request_uri("http://localhost:${port}/", { http_version = 2 }))
            http.debug(false)
        ]], { port = server.port })
        if place.name ~= "nginx" then
            assert.matches("resty.mtls: response: 200 OK, ", log, 1, true)
            assert.matches("resty.mtls: body complete: 4 bytes; ", log, 1, true)
        else
            -- At level info, nginx drops them.
            assert.not_matches("resty.mtls: response", log, 1, true)
        end
    end)
end
