local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nghttpd = require("spec.support.nghttpd")
local nginx = require("spec.support.nginx")
local places = require("spec.support.places")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local rotation = require("spec.support.rotation")
local upstream_of = require("spec.support.nginx.upstream")

local upstream


-- Fresh, so that no earlier spec has left a connection to it.
before_each(function()
    upstream = nginx.upstream({ listen = "http2", verify = "optional",
                                server = "location = /status { stub_status; }" })
end)

after_each(function() upstream:stop() end)


local function connected(identity, more)
    local options = {
        scheme = "https", host = "localhost", port = upstream.port, http_version = 2,
        ssl_trusted_certificate = certs.path("ca.crt"),
    }
    if identity then
        options.ssl_cert = certs.read(identity .. ".crt")
        options.ssl_key = certs.read(identity .. ".key")
    end
    for name, value in pairs(more or {}) do
        options[name] = value
    end
    local httpc = http.new()
    httpc:set_timeout(10000)
    assert(httpc:connect(options))
    return httpc
end


local function seen_by(httpc)
    return upstream_of.parse(assert(assert(httpc:request({ path = "/echo" })):read_body()))
end


describe("a connection", function()
    it("is shared by those who are the same to the server", function()
        local before = http.stats()
        local clients, connection = {}, nil
        for i = 1, 5 do
            clients[i] = connected("client-a")
            local seen = seen_by(clients[i])
            connection = connection or seen.connection
            assert.equals(connection, seen.connection)
            assert.equals(i - 1, clients[i]:get_reused_times())
        end
        local stats = http.stats()
        assert.equals(1, stats.connections_opened - before.connections_opened)
        assert.equals(4, stats.connections_reused - before.connections_reused)
        for _, httpc in ipairs(clients) do
            assert.equals(1, httpc:set_keepalive())
        end
        assert.equals(1, http.stats().connections_idle - before.connections_idle)
    end)

    it("is shared by nobody else", function()
        local connections = {}
        local identities = { "client-a", "client-b", "client-p384", false }
        local clients = {}
        for _ = 1, 3 do
            for _, identity in ipairs(identities) do
                for _, pool in ipairs({ "", "own" }) do
                    local httpc = connected(identity, { pool = pool ~= "" and pool or nil })
                    clients[#clients + 1] = httpc
                    local seen = seen_by(httpc)
                    assert.equals(identity and "CN=" .. identity .. ",O=Example" or "",
                                  seen.subject)
                    local key = tostring(identity) .. pool
                    connections[key] = connections[key] or seen.connection
                    assert.equals(connections[key], seen.connection)
                end
            end
        end
        local taken = {}
        for _, connection in pairs(connections) do
            assert.is_nil(taken[connection])
            taken[connection] = true
        end
        for _, httpc in ipairs(clients) do
            httpc:close()
        end
    end)

    it("of HTTP/1.1 is not taken for one, and the other way round", function()
        local first = connected("client-a", { http_version = 1.1 })
        assert.equals("HTTP/1.1", seen_by(first).http)
        assert.equals(1, first:set_keepalive())
        local second = connected("client-a")
        assert.equals(0, second:get_reused_times())
        assert.equals("HTTP/2.0", seen_by(second).http)
        assert.equals(1, second:set_keepalive())
        first = connected("client-a", { http_version = 1.1 })
        assert.equals(1, first:get_reused_times())
        assert.equals("HTTP/1.1", seen_by(first).http)
        first:close()
    end)

    it("ends when it was idle for long enough", function()
        local before = http.stats().connections_open
        local httpc = connected("client-a")
        assert(seen_by(httpc))
        assert.equals(before + 1, http.stats().connections_open)
        assert.equals(1, httpc:set_keepalive(100))
        process.wait_until("the connection is closed", function()
            return http.stats().connections_open == before
        end, 5)
        assert.equals(0, connected("client-a"):get_reused_times())
    end)
end)


-- nginx goes on with what a light thread of its own sends on a stream that was reset.
describe("a connection to nghttpd", function()
    local server, opened

    before_each(function()
        server = nghttpd.start({ files = { big = ("x"):rep(3000000), echo = "hello" } })
        opened = http.stats().connections_opened
    end)

    after_each(function()
        assert.equals(1, http.stats().connections_opened - opened)
        server:stop()
    end)

    local function client()
        local httpc = http.new()
        httpc:set_timeout(10000)
        assert(httpc:connect({ scheme = "http", host = "localhost", port = server.port,
                               http_version = 2 }))
        return httpc
    end

    local function assert_works(httpc)
        assert.equals("hello", assert(httpc:request({ path = "/echo" })):read_body())
    end

    it("outlives the clients that close", function()
        local first, second = client(), client()
        local res = assert(first:request({ path = "/big" }))
        assert.equals(10, #assert(res.body_reader(10)))
        assert_works(second)
        assert.equals(1, first:close())
        local part, _, details = res.body_reader()
        while part do
            part, _, details = res.body_reader()
        end
        assert.equals("closed", details.code)
        process.wait_until("the stream is reset", function()
            return server:output():find("RST_STREAM.-error_code=CANCEL")
        end)
        assert_works(second)
        assert_works(client())
    end)

    it("is not held up by clients that do not read", function()
        local slow = {}
        for i = 1, 20 do
            slow[i] = client()
            assert(slow[i]:request({ path = "/big" }))
        end
        assert_works(client())
        for i = 1, 20 do
            assert.equals(3000000, #slow[i].current_response:read_body())
            assert.equals(1, slow[i]:set_keepalive())
        end
    end)
end)


local ROTATION = {
    { "takes its connections with it when it is replaced", [[
        options = { ssl_cert_path = folder .. "/tls.crt", ssl_key_path = folder .. "/tls.key",
                    http_version = 2 }
        put("tls", "client-a")
        visit_until(nil, "client-a")
        assert(select(2, visit()).reused > 0)
        put("tls", "client-b")
        visit_until("client-a", "client-b")
        visit_for(1.5, "client-b")
        only_connections_are(1)
    ]] },
}

describe("an identity in files", function()
    local runs

    setup(function() runs = rotation.begin(ROTATION, { listen = "http2" }) end)

    teardown(function() runs:stop() end)

    for _, place in ipairs(places) do
        for _, case in ipairs(ROTATION) do
            it(case[1] .. ", in " .. place.name, function() runs:finish(place, case) end)
        end
    end
end)


describe("light threads at once", function()
    local gateway

    setup(function() gateway = nginx.gateway() end)

    teardown(function() gateway:stop() end)

    local AT_ONCE = prelude .. [[
        local function at_once(count, options, path, keep)
            local threads, reasons = {}, {}
            for i = 1, count do
                threads[i] = ngx.thread.spawn(function()
                    local httpc = http.new()
                    httpc:set_timeout(20000)
                    local ok, err = httpc:connect(options)
                    local res
                    if ok then
                        res, err = httpc:request({ path = path })
                    end
                    local body
                    if res then
                        body, err = res:read_body()
                    end
                    if keep then
                        httpc:set_keepalive()
                    end
                    reasons[body and res.status or err] =
                        (reasons[body and res.status or err] or 0) + 1
                end)
            end
            for i = 1, count do
                ngx.thread.wait(threads[i])
            end
            for reason, number in pairs(reasons) do
                print(number .. " " .. reason)
            end
        end
    ]]

    it("open one connection", function()
        local output = gateway:run(AT_ONCE .. [[
            at_once(100, identified({ scheme = "https", host = "localhost", port = ${up},
                                      http_version = 2 }), "/slow?s=0.3", true)
            print(stats().connections_opened .. " " .. stats().connections_idle)
        ]], { vars = { up = upstream.port } })
        assert.equals("100 200\n1 1\n", output)
    end)

    it("open as many as the server's bound on streams demands", function()
        local server = nghttpd.start({ files = { echo = "hello" }, args = { "-m", "10" } })
        local output = gateway:run(AT_ONCE .. [[
            local before = stats().connections_opened
            local options = { scheme = "http", host = "localhost", port = ${up},
                              http_version = 2 }
            local held = {}
            for i = 1, 25 do
                held[i] = http.new()
                assert(held[i]:connect(options))
            end
            at_once(50, options, "/echo", true)
            for i = 1, 25 do
                assert(held[i]:request({ path = "/echo" })).read_body()
                held[i]:set_keepalive()
            end
            local opened = stats().connections_opened - before
            print(opened >= 3 and opened <= 8)
        ]], { vars = { up = server.port } })
        server:stop()
        assert.equals("50 200\ntrue\n", output)
    end)

    it("are told all the same if there is no connection", function()
        local output = gateway:run(AT_ONCE .. [[
            local before = stats()
            at_once(50, { scheme = "https", host = "localhost", port = ${up}, http_version = 2,
                          ssl_trusted_certificate = ${pem.other-ca.crt} }, "/")
            print(stats().handshakes_failed - before.handshakes_failed < 10)
        ]], { vars = { up = upstream.port } })
        assert.matches("^50 handshake failed: certificate verify failed", output)
        assert.matches("\ntrue\n$", output)
    end)

    it("do not wait for each other with a server of HTTP/1.1", function()
        local server = nginx.upstream()
        local output = gateway:run(AT_ONCE .. [[
            local started = ngx.now()
            at_once(30, identified({ scheme = "https", host = "localhost", port = ${up},
                                     http_version = "auto" }), "/slow?s=0.5", true)
            ngx.update_time()
            print(ngx.now() - started < 5)
        ]], { vars = { up = server.port } })
        server:stop()
        assert.equals("30 200\ntrue\n", output)
    end)
end)
