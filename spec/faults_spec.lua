--- The faults that clients with this API are known for, one test each.
local call = require("spec.support.call")
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local peer = require("spec.support.peer")
local process = require("spec.support.process")
local scripted = require("spec.support.scripted")
local upstream = require("spec.support.nginx.upstream")

local pack = scripted.pack

local HEAD = peer.receive_until("\r\n\r\n")
local EMPTY = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

local server


setup(function() server = nginx.upstream({ verify = "optional" }) end)

teardown(function() server:stop() end)

after_each(scripted.finish)


-- Connect options for the upstream, with a client certificate unless there is no name.
local function as(name, more)
    local options = {
        scheme = "https", host = "localhost", port = server.port, keep = true,
        ssl_trusted_certificate = certs.path("ca.crt"), request = { path = "/echo" },
        ssl_cert = name and certs.read(name .. ".crt"),
        ssl_key = name and certs.read(name .. ".key"),
    }
    for option, value in pairs(more or {}) do
        options[option] = value
    end
    return options
end


local function visit(options)
    local outcome = call.make(options)
    assert.equals(200, outcome.status, outcome.err)
    local seen = upstream.parse(outcome.body)
    seen.reused = outcome.reused
    return seen
end


-- What a client gets that asks a peer for `params`: the response, or nil, err, details.
local function exchange(bytes, params)
    local httpc = scripted.answered(bytes)
    local res, err, details = httpc:request(params or {})
    if not res then
        return nil, err, details
    end
    local body
    body, err, details = res:read_body()
    if not body then
        return nil, err, details
    end
    return res, body
end


describe("of the known faults,", function()
    it("a connection of one identity is not given to another, nor to a caller without", function()
        assert.equals("CN=client-a,O=Example", visit(as("client-a")).subject)
        local another, nobody = visit(as("client-b")), visit(as(nil))
        assert.same({ "CN=client-b,O=Example", 0 }, { another.subject, another.reused })
        assert.same({ "", 0 }, { nobody.subject, nobody.reused })
        local again = visit(as("client-a"))
        assert.same({ "CN=client-a,O=Example", 1 }, { again.subject, again.reused })
    end)

    it("certificate options are not ignored by an nginx without a patch", function()
        local gateway = nginx.gateway()
        local by_text = call.inside(gateway, as("client-a"))
        local by_path = call.inside(gateway, {
            scheme = "https", host = "localhost", port = server.port, request = { path = "/echo" },
            ssl_trusted_certificate = certs.path("ca.crt"),
            ssl_cert_path = certs.path("client-b.crt"), ssl_key_path = certs.path("client-b.key"),
        })
        gateway:stop()
        assert.equals("CN=client-a,O=Example", upstream.parse(by_text.body).subject)
        assert.equals("CN=client-b,O=Example", upstream.parse(by_path.body).subject)
    end)

    it("the host is sent as SNI and checked without ssl_server_name", function()
        assert.equals("localhost", visit(as("client-a", { ssl_verify = true })).server_name)
        local misnamed = scripted.serve({ tls = { cert = "server-wrong-name" },
                                          script = { peer.hang() } })
        local ok, err, details = http.new():connect(as(nil, { port = misnamed.port,
                                                              ssl_verify = true }))
        assert.is_nil(ok)
        assert.matches("^certificate host mismatch", err)
        assert.equals("server_name_mismatch", details.code)
    end)

    it("the client certificate is not offered to a server that is not trusted", function()
        -- What the server said and got in the handshake, once it has come to where `last` matches.
        local function messages(identity, version, last)
            local demanding = openssl_server.start({ cert = identity, client_ca = "ca",
                                                     version = version, args = { "-msg" } })
            local httpc = http.new()
            local ok, _, details = httpc:connect(as("client-a", { port = demanding.port }))
            process.wait_until("the server has seen " .. last, function()
                return demanding.process:output():match(last)
            end)
            httpc:close()
            demanding:stop()
            return demanding.process:output(), ok, details
        end

        local certificate = "<<< TLS [^\n]*, Certificate\n"
        for _, version in ipairs({ "1.2", "1.3" }) do
            local output, ok, details = messages("server-unknown-ca", version, "alert unknown ca")
            assert.is_nil(ok)
            assert.equals("server_certificate_untrusted", details.code)
            assert.matches(">>> TLS [^\n]*, CertificateRequest\n", output)
            assert.not_matches(certificate, output)
            assert.is_true((select(2, messages("server", version, certificate))))
        end
    end)

    it("half a certificate pair, and a key of another certificate, are not accepted", function()
        local crt, key = certs.read("client-a.crt"), certs.read("client-a.key")
        local other = certs.read("client-b.key")
        for _, case in ipairs({
            { { ssl_cert = crt }, "missing 'ssl_key_path' or 'ssl_key' when" },
            { { ssl_key = key }, "ssl_cert" },
            { { ssl_client_cert = crt }, "ssl_client_priv_key" },
            { { ssl_client_priv_key = key }, "ssl_client_cert" },
            { { ssl_cert = crt, ssl_key = other }, "key mismatch" },
            { { ssl_client_cert = crt, ssl_client_priv_key = other }, "key mismatch" },
            { { ssl_cert = crt, ssl_cert_path = certs.path("client-a.crt"), ssl_key = key },
              "cannot specify both 'ssl_cert' and 'ssl_cert_path'" },
        }) do
            local values = pack(http.new():connect(as(nil, case[1])))
            assert.equals(3, values.n)
            assert.is_nil(values[1])
            assert.matches(case[2], values[2], 1, true)
            assert.equals("options", values[3].stage)
        end
    end)

    it("no_proxy = '*' does not send Proxy-Authorization to the origin server", function()
        local origin = scripted.serve({ script = { HEAD, peer.send(EMPTY), peer.hang() } })
        local proxy_opts = {
            http_proxy = "http://user:secret@127.0.0.1:1", no_proxy = "*",
            http_proxy_authorization = "Basic c2VjcmV0",
        }
        local uri = "http://127.0.0.1:" .. origin.port .. "/"
        local httpc = http.new()
        httpc:set_proxy_options(proxy_opts)
        assert(httpc:request_uri(uri, { keepalive = false }))
        assert(http.new():request_uri(uri, { keepalive = false, proxy_opts = proxy_opts,
            headers = { ["Proxy-Authorization"] = "Basic c2VjcmV0" } }))
        for number = 1, 2 do
            local received = origin:received(number)
            assert.matches("^GET / HTTP/1.1\r\n", received)
            assert.not_matches("authorization", received:lower(), 1, true)
        end
    end)

    it("a method cannot carry a line end, and version 2 does not throw", function()
        local httpc, origin = scripted.answered(EMPTY)
        for _, case in ipairs({
            { { method = "GET / HTTP/1.1\r\nX-Evil: 1\r\n\r\nGET" }, "method" },
            { { method = "GET\n" }, "method" }, { { method = "" }, "method" },
            { { version = 2 }, "bad 'version'" }, { { version = 3 }, "bad 'version'" },
        }) do
            local values = pack(httpc:request(case[1]))
            assert.equals(3, values.n)
            assert.is_nil(values[1])
            assert.matches(case[2], values[2], 1, true)
            assert.equals("bad_argument", values[3].code)
        end
        assert.equals(200, assert(httpc:request({ path = "/good" })).status)
        assert.matches("^GET /good HTTP/1.1\r\n", origin:received(1))
    end)

    it("interim answers, odd framing and endless responses are not mishandled", function()
        local res, body = exchange("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            .. "HTTP/1.1 100 Continue\r\nX-Note: 1\r\n\r\n"
            .. "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            .. "3;name=value\r\nabc\r\n0;last\r\nX-Sum: 1\r\n\r\n")
        assert.same({ 200, "abc" }, { res.status, body })
        assert.is_nil((res:read_trailers()))
        assert.equals("1", res.headers["X-Sum"])

        for _, lines in ipairs({ "Content-Length: 0x2\r\n", "no colon\r\n",
                                 "Content-Length: 2\r\nContent-Length: 2\r\n" }) do
            local none, _, details = exchange("HTTP/1.1 200 OK\r\n" .. lines .. "\r\nhi")
            assert.is_nil(none)
            assert.equals("http_malformed", details.code)
        end
        for _, bytes in ipairs({
            "HTTP/1.1 200 OK\r\nX-Long: " .. ("x"):rep(70000) .. "\r\n\r\n",
            "HTTP/1.1 200 OK\r\n" .. ("X-Many: 1\r\n"):rep(101) .. "\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nhello world",
        }) do
            local none, _, details = exchange(bytes, { max_body_size = 10 })
            assert.is_nil(none)
            assert.equals("http_too_large", details.code)
        end
    end)

    it("PEM is not parsed, nor files read, at every handshake, and sessions are resumed", function()
        local dir = fs.temp_dir("identity")
        fs.write(dir .. "/crt", certs.read("client-a.crt"))
        fs.write(dir .. "/key", certs.read("client-a.key"))
        local options = as(nil, { ssl_cert_path = dir .. "/crt", ssl_key_path = dir .. "/key",
                                  keep = false })
        assert.equals(".", visit(options).session_reused)
        -- Nobody asks for the files again.
        assert(os.remove(dir .. "/crt"))
        assert(os.remove(dir .. "/key"))
        local before = http.stats()
        local seen = visit(options)
        local after = http.stats()
        assert.same({ "r", "CN=client-a,O=Example" }, { seen.session_reused, seen.subject })
        assert.equals(before.handshakes_full, after.handshakes_full)
        assert.equals(before.handshakes_resumed + 1, after.handshakes_resumed)
    end)

    it("there is not one trust store for all", function()
        local other = scripted.serve({ tls = { cert = "server-unknown-ca" },
                                       script = { HEAD, peer.send(EMPTY), peer.hang() } })
        local theirs = { port = other.port, ssl_trusted_certificate = certs.path("other-ca.crt"),
                         keep = false, request = {} }
        assert.equals(200, call.make(as(nil, theirs)).status)
        assert.equals("server_certificate_untrusted",
                      call.make(as(nil, { port = other.port })).details.code)
        assert.equals("server_certificate_untrusted", call.make(as(nil, {
            ssl_trusted_certificate = certs.path("other-ca.crt") })).details.code)
        assert.equals("", visit(as(nil)).subject)
    end)

    it("a TLS failure is not a mere 'handshake failed' with the alert in a log", function()
        for version, alert in pairs({ ["1.2"] = 40, ["1.3"] = 116 }) do
            local strict = openssl_server.start({ client_ca = "ca", version = version })
            local outcome = call.make(as(nil, { port = strict.port, keep = false }))
            strict:stop()
            assert.equals("client_certificate_required", outcome.details.code)
            assert.equals(alert, outcome.details.alert)
            assert.matches("ssl_cert", outcome.details.hint, 1, true)
        end
    end)

    it("a pooled connection that the server closed does not fail the next request", function()
        local closing = scripted.serve({ scripts = {
            { HEAD, peer.send(EMPTY), HEAD, peer.reset() },
            { HEAD, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"), peer.hang() },
        } })
        local httpc = scripted.connect(closing)
        assert(httpc:request({ path = "/first" }))
        assert.equals(1, httpc:set_keepalive())
        httpc = scripted.connect(closing)
        assert.equals(1, httpc:get_reused_times())
        assert.equals("second", assert(httpc:request({ path = "/second" })):read_body())
        assert.matches("GET /second ", closing:received(1), 1, true)
        assert.matches("^GET /second ", closing:received(2))
    end)
end)
