-- What http.stats counts of known traffic: bytes, failures by code, and what is in flight.
local certs = require("spec.support.certs")
local frames = require("spec.support.frames")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local plain = require("spec.support.plain")
local ports = require("spec.support.ports")
local process = require("spec.support.process")
local scripted = require("spec.support.scripted")

local HEAD = peer.receive_until("\r\n\r\n")
local ANSWER = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"


-- By how much the counters of this process have changed since, tables by code included. Of those by
-- code, what has not changed is left out.
local function since(before)
    local changes = {}
    for name, value in pairs(http.stats()) do
        if type(value) == "number" then
            changes[name] = value - before[name]
        else
            changes[name] = {}
            for code, count in pairs(value) do
                local old = before[name][code] or 0
                changes[name][code] = count ~= old and count - old or nil
            end
        end
    end
    return changes
end


local function assert_changes(expected, before)
    local changes = since(before)
    for name, value in pairs(expected) do
        assert.same(value, changes[name], name)
    end
end


after_each(scripted.finish)


describe("bytes_sent and bytes_received", function()
    -- What the server saw and sent is the measure, without what TLS adds.
    local function assert_counts(httpc, server, answers, before)
        httpc:close()
        server:wait_for_event("1 waits")
        local seen = { sent = #server:received(1), received = #answers }
        local changes = since(before)
        assert.same(seen, { sent = changes.bytes_sent, received = changes.bytes_received })
        assert.is_true(seen.sent > 0)
    end

    for _, tls in ipairs({ false, { client_ca = "ca" } }) do
        it("are those of HTTP/1.1 over " .. (tls and "TLS" or "TCP"), function()
            local server = scripted.serve({ tls = tls or nil, script = {
                HEAD, peer.send(ANSWER), peer.receive_until("last"), peer.send(ANSWER),
                peer.receive_to_end(), peer.pause(),
            } })
            server.is_tls = tls ~= false
            local before = http.stats()
            local httpc = scripted.connect(server, tls and {
                ssl_cert_path = certs.path("client-a.crt"),
                ssl_key_path = certs.path("client-a.key"),
            })
            assert.equals(200, (scripted.fetch(httpc)))
            local large = ("x"):rep(300000)
            assert.equals(200, (scripted.fetch(httpc, { method = "POST", body = large .. "last" })))
            assert_counts(httpc, server, ANSWER .. ANSWER, before)
        end)
    end

    it("are those of bodies that come in pieces", function()
        local answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            .. "3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"
        local server = scripted.serve({ script = {
            peer.receive_until("last"), peer.send(answer), peer.receive_to_end(),
            peer.pause(),
        } })
        local before, pieces = http.stats(), { "first", "last" }
        local httpc = scripted.connect(server)
        local status, body = scripted.fetch(httpc, {
            method = "PUT", headers = { ["Content-Length"] = 9 },
            body = function() return table.remove(pieces, 1) end,
        })
        assert.same({ 200, "abc" }, { status, body })
        assert_counts(httpc, server, answer, before)
    end)

    it("are those of the frames of HTTP/2", function()
        local first, last = frames.response(1, "one"), frames.response(3, ("x"):rep(9000))
        local server = scripted.serve({ script = {
            peer.send(frames.SETTINGS), frames.await_request(1), peer.send(first),
            frames.await_request(3), peer.send(last .. frames.goaway(3, frames.NO_ERROR)),
            peer.receive_to_end(), peer.pause(),
        } })
        local before = http.stats()
        local httpc = scripted.connect(server, { http_version = 2 })
        assert.equals("one", select(2, scripted.fetch(httpc)))
        assert.equals(9000, #select(2, scripted.fetch(httpc)))
        local answers = frames.SETTINGS .. first .. last .. frames.goaway(3, frames.NO_ERROR)
        assert_counts(httpc, server, answers, before)
    end)

    it("are what a real nginx logs as sent and received", function()
        local upstream = nginx.upstream({
            http = "log_format sizes '$request_length $bytes_sent';",
            server = "access_log ${dir}/sizes.log sizes;",
        })
        local before = http.stats()
        local uri = "https://localhost:" .. upstream.port
        local options = {
            ssl_cert_path = certs.path("client-a.crt"), ssl_key_path = certs.path("client-a.key"),
            ssl_trusted_certificate = certs.path("ca.crt"), keepalive = false,
        }
        for path, body in pairs({ ["/echo"] = "", ["/bytes?n=700000"] = "", ["/body"] = "abc" }) do
            options.method, options.body = "POST", body
            assert(http.new():request_uri(uri .. path, options))
        end
        upstream:stop()
        local sent, received = 0, 0
        for length, bytes in fs.read(upstream.dir .. "/sizes.log"):gmatch("(%d+) (%d+)\n") do
            sent, received = sent + tonumber(length), received + tonumber(bytes)
        end
        assert.is_true(received > 700000)
        assert_changes({ bytes_sent = sent, bytes_received = received, requests = 3 }, before)
    end)
end)


describe("requests_in_flight", function()
    local function in_flight()
        return http.stats().requests_in_flight
    end

    it("is of requests whose response has not come completely", function()
        local before = in_flight()
        local httpc, server = scripted.connected({
            HEAD, peer.pause(), peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo"),
            peer.pause(), peer.send("dy"), peer.receive_to_end(),
        })
        assert.equals(before, in_flight())
        assert(httpc:send_request({}))
        assert.equals(before + 1, in_flight())
        server:resume()
        local res = assert(httpc:read_response({}))
        assert.equals(before + 1, in_flight())
        server:resume()
        assert.equals("body", res:read_body())
        assert.equals(before, in_flight())
    end)

    it("counts each request of a pipeline", function()
        local before = in_flight()
        local httpc, server = scripted.connected({
            HEAD, peer.pause(), peer.send(ANSWER .. ANSWER), peer.receive_to_end(),
        })
        local responses = assert(httpc:request_pipeline({ {}, {} }))
        assert.equals(before + 2, in_flight())
        server:resume()
        assert.equals("body", responses[1]:read_body())
        assert.equals(before + 1, in_flight())
        assert.equals("body", responses[2]:read_body())
        assert.equals(before, in_flight())
    end)

    it("goes down with requests that fail, and with connections that are closed", function()
        local before = in_flight()
        local httpc = scripted.answered("garbage\r\n\r\n")
        assert.is_nil((httpc:request({})))
        assert.equals(before, in_flight())
        httpc = scripted.answered("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo")
        assert(httpc:request({}))
        assert.equals(before + 1, in_flight())
        httpc:close()
        process.wait_until("the request is given up", function() return in_flight() == before end)
    end)

    it("is of streams as well", function()
        local before = in_flight()
        local server = scripted.serve({ script = {
            peer.send(frames.SETTINGS), frames.await_request(1), frames.await_request(3),
            peer.send(frames.response(1, "one")), peer.pause(),
            peer.send(frames.reset(3, frames.CANCEL)), peer.receive_to_end(),
        } })
        local one = scripted.connect(server, { http_version = 2 })
        local two = scripted.connect(server, { http_version = 2 })
        assert(one:send_request({}))
        assert(two:send_request({}))
        assert.equals(before + 2, in_flight())
        assert.equals("one", assert(one:read_response({})):read_body())
        assert.equals(before + 1, in_flight())
        server:resume()
        assert.is_nil((two:read_response({})))
        assert.equals(before, in_flight())
    end)
end)


describe("failures", function()
    local function assert_failure(code, before, fail)
        assert.is_nil((fail()))
        assert_changes({ failures = 1, failures_by_code = { [code] = 1 } }, before)
    end

    it("are counted by code, once each", function()
        local port = ports.free()
        assert_failure("connect_refused", http.stats(), function()
            return http.new():request_uri("http://127.0.0.1:" .. port .. "/")
        end)
        assert_failure("bad_argument", http.stats(), function()
            return http.new():request_uri("nonsense")
        end)
        assert_failure("bad_argument", http.stats(), function()
            return http.new():connect({ scheme = "https", host = "localhost", ssl_cert = "x" })
        end)
        assert_failure("closed", http.stats(), function() return http.new():request({}) end)
        assert_failure("http_malformed", http.stats(), function()
            return scripted.answered("garbage\r\n\r\n"):request({})
        end)
        assert_failure("read_timeout", http.stats(), function()
            local httpc = scripted.connected({ peer.hang() })
            httpc:set_timeouts(1000, 1000, 50)
            return httpc:request({})
        end)
    end)

    it("of a body count once, however often it is asked for", function()
        local before = http.stats()
        local httpc = scripted.answered("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody",
                                        peer.close())
        local res = assert(httpc:request({}))
        for _ = 1, 3 do
            assert.is_nil((res:read_body()))
        end
        assert_changes({ failures = 1, failures_by_code = { closed = 1 } }, before)
    end)

    it("are none where a retry has helped, and one where it has not", function()
        local server = scripted.serve({ scripts = {
            { HEAD, peer.send(ANSWER), HEAD, peer.close() },
            { HEAD, peer.send(ANSWER), HEAD, peer.close() },
            { peer.close() },
        } })
        local before = http.stats()
        local uri = "http://localhost:" .. server.port .. "/"
        assert(http.new():request_uri(uri))
        assert(http.new():request_uri(uri))
        assert_changes({ failures = 0, retries = 1, requests = 2 }, before)
        assert.is_nil((http.new():request_uri(uri)))
        assert_changes({ failures = 1, failures_by_code = { closed = 1 }, retries = 2,
                         requests = 3 }, before)
    end)

    it("are not those of a body iterator's own", function()
        local before = http.stats()
        local httpc = scripted.connected({ HEAD, peer.receive_to_end() })
        local res, err = httpc:request({
            method = "POST", headers = { ["Content-Length"] = 9 },
            body = function() return nil, "my own" end,
        })
        assert.same({ nil, "my own" }, { res, err })
        assert_changes({ failures = 0 }, before)
    end)

    it("of handshakes are counted by code as well", function()
        local upstream = nginx.upstream()
        local function fail(options)
            options.scheme, options.host, options.port = "https", "localhost", upstream.port
            assert.is_nil((http.new():connect(options)))
        end
        local before = http.stats()
        fail({ ssl_trusted_certificate = certs.path("other-ca.crt") })
        fail({ ssl_trusted_certificate = certs.path("other-ca.crt") })
        fail({ ssl_trusted_certificate = certs.path("ca.crt"), ssl_server_name = "wrong.test" })
        local codes = { server_certificate_untrusted = 2, server_name_mismatch = 1 }
        assert_changes({ handshakes_failed = 3, handshakes_failed_by_code = codes, failures = 3,
                         failures_by_code = codes, handshakes_full = 0, connections_opened = 0 },
                       before)
        upstream:stop()
    end)

    it("are those of a rejected certificate, after the handshake in TLS 1.3", function()
        local server = scripted.serve({ tls = { client_ca = "ca", version = "1.3" },
                                        script = { HEAD, peer.hang() } })
        local before = http.stats()
        assert.is_nil((http.new():request_uri("https://localhost:" .. server.port .. "/", {
            ssl_trusted_certificate = certs.path("ca.crt"),
        })))
        assert_changes({ failures_by_code = { client_certificate_required = 1 },
                         handshakes_failed = 0, handshakes_full = 1 }, before)
    end)
end)


describe("stats", function()
    it("of a process that has done nothing are zero, and start no thread", function()
        assert.equals("true\t0\t0\t0\n", plain.run_lua([[
            local http = require("resty.mtls.http")
            local function threads()
                local status = io.open("/proc/self/status"):read("*a")
                return tonumber(status:match("Threads:%s*(%d+)"))
            end
            local before, stats = threads(), http.stats({ destinations = true })
            print(threads() == before, stats.requests, stats.failures, stats.connections_idle)
        ]]))
    end)

    it("refuse options that are none", function()
        local stats, _, details = http.stats("all")
        assert.same({ "bad_argument", "options" }, { details.code, details.stage })
        assert.is_nil(stats)
    end)

    it("has no field that is not documented, for readers and for editors", function()
        local page = fs.read(fs.repo .. "/docs/operations.md")
        local types = fs.read(fs.repo .. "/lua/resty/mtls/types.lua")
        for name in pairs(http.stats({ destinations = true })) do
            assert.matches("%-%-%-@field " .. name .. "%?? ", types)
            if name ~= "destinations" then
                assert.matches("\n| `" .. name .. "` | ", page, 1, true)
            end
        end
    end)
end)
