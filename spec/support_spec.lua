local certs = require("spec.support.certs")
local client = require("spec.support.client")
local groups = require("spec.support.groups")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local peer = require("spec.support.peer")
local plain = require("spec.support.plain")
local process = require("spec.support.process")
local upstream = require("spec.support.nginx.upstream")


local function curl(url, identity, ...)
    local argv = { "curl", "-sS", "--cacert", certs.path("ca.crt"), url, ... }
    if identity then
        for _, argument in ipairs({ "--cert", certs.path(identity .. ".crt"),
                                    "--key", certs.path(identity .. ".key") }) do
            argv[#argv + 1] = argument
        end
    end
    return process.run(argv)
end


describe("the PKI of the specs", function()
    local function openssl(...)
        return process.run({ "openssl", ... })
    end

    it("has chains that lead to the CA", function()
        for _, name in ipairs({ "server", "client-a", "client-rsa", "client-p384",
                                "client-ed25519", "client-chained", "server-chained" }) do
            local path = certs.path(name .. ".crt")
            local result = openssl("verify", "-CAfile", certs.path("ca.crt"),
                                   "-untrusted", path, path)
            assert.equals(0, result.code, result.stderr)
        end
    end)

    it("has certificates that are to be refused", function()
        for name, reason in pairs({
            ["client-expired"] = "certificate has expired",
            ["server-expired"] = "certificate has expired",
            ["server-not-yet-valid"] = "certificate is not yet valid",
            ["client-other-ca"] = "unable to get local issuer certificate",
            ["server-self-signed"] = "self%-signed certificate",
        }) do
            local result = openssl("verify", "-CAfile", certs.path("ca.crt"),
                                   certs.path(name .. ".crt"))
            assert.not_equals(0, result.code)
            assert.matches(reason, result.stderr)
        end
    end)

    it("has keys in every form that people keep them in", function()
        for name, head in pairs({
            ["client-a.pkcs8.key"] = "BEGIN PRIVATE KEY",
            ["client-a.sec1.key"] = "BEGIN EC PRIVATE KEY",
            ["client-rsa.pkcs1.key"] = "BEGIN RSA PRIVATE KEY",
            ["client-ed25519.key"] = "BEGIN PRIVATE KEY",
            ["client-rsa.encrypted.key"] = "BEGIN ENCRYPTED PRIVATE KEY",
            ["client-p384.aes128-sha1.key"] = "BEGIN ENCRYPTED PRIVATE KEY",
            ["client-a.aes192-sha512.key"] = "BEGIN ENCRYPTED PRIVATE KEY",
            ["client-ed25519.des3.key"] = "BEGIN ENCRYPTED PRIVATE KEY",
            ["client-rsa.scrypt.key"] = "BEGIN ENCRYPTED PRIVATE KEY",
            ["client-a.pbes1.key"] = "BEGIN ENCRYPTED PRIVATE KEY",
            ["client-a.legacy.key"] = "BEGIN EC PRIVATE KEY-----\nProc%-Type: 4,ENCRYPTED",
        }) do
            assert.matches(head, certs.read(name))
            local result = openssl("pkey", "-noout", "-in", certs.path(name),
                                   "-passin", "pass:" .. certs.PASSPHRASE)
            assert.equals(0, result.code, name .. result.stderr)
        end
    end)
end)


describe("a process", function()
    it("tells its output and exit code", function()
        local result = process.run({ "sh", "-c", "cat; echo oops >&2; exit 3" },
                                   { stdin = "hello" })
        assert.same({ code = 3, stdout = "hello", stderr = "oops\n" }, result)
    end)

    it("that leaves children behind is reported, and they are ended", function()
        local shell = process.start({ "sh", "-c", "sleep 60 & echo $!" })
        shell:wait()
        local child = tonumber(shell:output())
        assert.error_matches(function() shell:stop() end, "left processes " .. child)
        process.wait_until("the child is gone", function()
            local stat = groups.stat(child)
            return not stat or stat.state == "Z"
        end)
    end)
end)


describe("the upstream", function()
    local server

    setup(function() server = nginx.upstream() end)

    teardown(function() server:stop() end)

    it("tells who called", function()
        for _, version in ipairs({ "1.2", "1.3" }) do
            local result = curl("https://localhost:" .. server.port .. "/echo", "client-a",
                                "--tlsv" .. version, "--tls-max", version)
            assert.equals("", result.stderr)
            local seen = upstream.parse(result.stdout)
            assert.equals("CN=client-a,O=Example", seen.subject)
            assert.equals("TLSv" .. version, seen.protocol)
            assert.equals("SUCCESS", seen.verify)
            assert.equals("1", seen.connection_requests)
        end
    end)

    it("refuses callers without a certificate of its CA", function()
        for _, identity in ipairs({ false, "client-other-ca", "client-expired" }) do
            local result = curl("https://localhost:" .. server.port .. "/echo", identity)
            assert.matches("400 Bad Request", result.stdout)
        end
    end)

    it("listens on unix sockets and without TLS too", function()
        assert.equals(200, server:get("/echo", { port = server.ports.plain }).status)
        assert.equals("abc", server:get("/body", { port = server.ports.plain,
                                                   body = "abc" }).body)
        local result = curl("https://localhost/echo", "client-b",
                            "--unix-socket", server.tls_socket)
        assert.equals("CN=client-b,O=Example", upstream.parse(result.stdout).subject)
        result = curl("http://localhost/bytes?n=100000", nil,
                      "--unix-socket", server.plain_socket)
        assert.equals(100000, #result.stdout)
    end)
end)


describe("the gateway", function()
    local gateway

    setup(function() gateway = nginx.gateway() end)

    teardown(function() gateway:stop() end)

    it("runs chunks in every phase of a request", function()
        for _, phase in ipairs({ "set", "rewrite", "access", "content", "header_filter",
                                 "body_filter", "log", "balancer", "timer",
                                 "ssl_client_hello" }) do
            assert.equals(phase .. "\n", gateway:run("return ngx.get_phase()",
                                                     { phase = phase }))
        end
        assert.equals("ssl_cert\n", gateway:run("return ngx.get_phase()",
                                                { phase = "ssl_certificate" }))
    end)

    it("runs chunks in the phases of a process", function()
        for _, phase in ipairs({ "init", "init_worker", "exit_worker" }) do
            assert.equals(phase .. "\n", nginx.run_lua("print(ngx.get_phase())",
                                                       { phase = phase }))
        end
    end)

    it("fills in what a chunk asks for", function()
        assert.equals(certs.read("client-a.crt") .. "\n7\n",
                      gateway:run("print(${pem.client-a.crt}) return ${n}",
                                  { vars = { n = 7 } }))
    end)

    it("reports the error of a chunk", function()
        assert.error_matches(function() gateway:run("error('oh no')") end, "oh no")
        assert.error_matches(function() gateway:run("not Lua") end, "chunk")
    end)

    it("has many requests in flight", function()
        local runs = {}
        for i = 1, 20 do
            runs[i] = gateway:begin("ngx.sleep(0.2) return 'done'")
        end
        assert.is_false(runs[20]:is_done())
        assert.equals("ok", gateway:get("/ok").body)
        for i = 1, 20 do
            assert.equals("done\n", runs[i]:wait())
        end
    end)
end)


describe("nginx", function()
    it("reloads with another configuration and leaves nothing behind", function()
        local server = nginx.start({ http = [[
            server { listen 127.0.0.1:${port.web}; return 200 "old"; }
        ]], workers = 2 })
        assert.equals("old", server:get("/").body)
        assert.equals(2, #server:worker_pids())

        local before = server:worker_pids()
        server:reload([[ server { listen 127.0.0.1:${port.web}; return 200 "new"; } ]])
        process.wait_until("the old workers are gone", function()
            return #server:worker_pids() == 2 and not groups.stat(before[1])
        end)
        assert.equals("new", server:get("/").body)

        server:stop()
        assert.same({}, groups.members(server:pid()))
        local _, err = client.fetch({ port = server.port, path = "/" })
        assert.equals("connection refused", err)
    end)

    it("is what it was when it starts again after it was killed", function()
        local site = nginx.start({ http = [[
            server { listen 127.0.0.1:${port.site}; return 200 "here"; }
        ]], workers = 2 })
        local port, pid = site.port, site:pid()
        site:kill()
        assert.same({}, groups.members(pid))
        assert.is_nil((client.fetch({ port = port, path = "/" })))
        site:start_again()
        assert.equals("here", site:get("/").body)
        assert.equals(port, site.port)
        assert.equals(2, #site:worker_pids())
        site:stop()
    end)

    it("passes the environment and the user on", function()
        local chunk = [[
            local status = io.open("/proc/self/status"):read("*a")
            return os.getenv("MTLS_SPEC"), status:match("Uid:%s+(%d+)")
        ]]
        local output = nginx.run_lua(chunk, { env = { MTLS_SPEC = "here" },
                                              user = "nobody nogroup" })
        assert.matches("^here\t%d+\n$", output)
        assert.not_equals("here\t0\n", output)
    end)

    it("that cannot start says why", function()
        assert.error_matches(function() nginx.start({ http = "nonsense;" }) end,
                             'unknown directive "nonsense"')
    end)
end)


describe("a peer", function()
    it("plays its script on each connection and records what it gets", function()
        local head = peer.receive_until("\r\n\r\n")
        local server = peer.start({ scripts = {
            { head, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh"),
              peer.sleep(0.05), peer.drip("i", 0.01) },
            { head, peer.reset() },
        } })
        local exchange = client.send({ port = server.port, path = "/first" })
        local second = curl("http://localhost:" .. server.port .. "/second")
        assert.equals("hi", exchange:receive().body)
        assert.matches("reset by peer", second.stderr)

        assert.matches("^GET /first HTTP/1.1\r\n", server:received(1))
        assert.matches("^GET /second HTTP/1.1\r\n", server:received(2))
        assert.equals(2, server:connections())
        server:stop()
    end)

    it("listens on a unix socket", function()
        local server = peer.start({ socket = true, script = {
            peer.receive_until("\r\n\r\n"), peer.send("HTTP/1.0 200 OK\r\n\r\nunix"),
        } })
        assert.equals("unix", curl("http://x/", nil, "--unix-socket", server.path).stdout)
        server:stop()
    end)

    it("ends handshakes with an alert if it gets no good certificate", function()
        for version, alert in pairs({ ["1.2"] = "handshake failure",
                                      ["1.3"] = "certificate required" }) do
            local server = peer.start({ tls = { client_ca = "ca", version = version },
                                        script = { peer.receive_until("\r\n\r\n"),
                                                   peer.send("HTTP/1.0 200 OK\r\n\r\nhi") } })
            local url = "https://localhost:" .. server.port .. "/"
            assert.equals("hi", curl(url, "client-a").stdout)
            assert.matches("alert " .. alert, curl(url).stderr)
            assert.matches("alert unknown ca", curl(url, "client-other-ca").stderr)
            assert.matches("3 handshake failed: certificate verify failed", server:events())
            server:stop()
        end
    end)
end)


describe("s_server", function()
    it("ends handshakes with an alert if it gets no good certificate", function()
        for version, alert in pairs({ ["1.2"] = "handshake failure",
                                      ["1.3"] = "certificate required" }) do
            local server = openssl_server.start({ client_ca = "ca", version = version })
            local url = "https://localhost:" .. server.port .. "/"
            assert.matches("TLSv" .. version, curl(url, "client-a").stdout)
            assert.matches("alert " .. alert, curl(url).stderr)
            server:stop()
        end
    end)
end)


describe("plain luajit", function()
    it("runs a chunk", function()
        assert.equals("LuaJIT\n", plain.run_lua("print(jit.version:match('%a+'))"))
        local result = plain.run("io.stdout:write('x') os.exit(4)")
        assert.same({ code = 4, stdout = "x", stderr = "" }, result)
    end)
end)
