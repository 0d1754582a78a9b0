-- The line that `log_failures` writes for each call that fails.
local certs = require("spec.support.certs")
local frames = require("spec.support.frames")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local places = require("spec.support.places")
local ports = require("spec.support.ports")
local scripted = require("spec.support.scripted")
local tells_no_secret = require("spec.support.identity").assert_tells_no_secret

local NAMES = "code stage host port alert elapsed_ms reused attempt hint"

local PRELUDE = [[
    local http = require("resty.mtls.http")
    assert(http.set_defaults({ log_failures = true }))
    local httpc = http.new()
    httpc:set_timeout(10000)
]]


-- Reads one value, quoted or not: the value and the position behind it.
local function value_at(line, position)
    if line:sub(position, position) ~= '"' then
        return line:match("^([^%s\"]+)()", position)
    end
    local start = position + 1
    position = start
    while line:sub(position, position) ~= '"' do
        position = position + (line:sub(position, position) == "\\" and 2 or 1)
        assert(position <= #line, "no end of a value: " .. line)
    end
    return line:sub(start, position - 1), position + 1
end


-- The fields of each line by name, and their names in order as a list.
local function failures_of(log)
    local found = {}
    for line in log:gmatch("[^\n]*resty%.mtls: request failed ([^\n]*)") do
        local fields, position = { line = line }, 1
        while true do
            local name, start = line:match("^ ?([%w_]+)=()", position)
            if not name then
                break
            end
            fields[#fields + 1] = name
            fields[name], position = value_at(line, start)
        end
        -- Behind them, nginx says which request it was about.
        local rest = line:sub(position)
        assert.is_true(rest == "" or rest:find("^, [%w ]+: ") ~= nil, line)
        assert.equals(NAMES, table.concat(fields, " "))
        found[#found + 1] = fields
    end
    return found
end


-- The one failure that a chunk makes.
local function failure(place, code, vars)
    local _, log = place.run(PRELUDE .. code, vars)
    local found = failures_of(log)
    assert.equals(1, #found, log)
    return found[1], log
end


local function assert_fields(expected, fields)
    for name, value in pairs(expected) do
        assert.equals(value, fields[name], fields.line)
    end
end


after_each(scripted.finish)


for _, place in ipairs(places) do
    describe("log_failures in " .. place.name, function()
        it("tells of a server that does not listen", function()
            local port = ports.free()
            local fields = failure(place, [[
                assert(not httpc:request_uri("http://127.0.0.1:${port}/path?s3cr3t"))
            ]], { port = port })
            assert_fields({ code = "connect_refused", stage = "connect", host = "127.0.0.1",
                            port = tostring(port), alert = "-", reused = "-", attempt = "1" },
                          fields)
            assert.matches("^%d+$", fields.elapsed_ms)
            assert.matches("nothing listens at this address", fields.hint, 1, true)
        end)

        it("tells the alert of a server that rejects the certificate", function()
            local server = scripted.serve({ tls = { client_ca = "ca", version = "1.3" },
                                            script = { peer.hang() } })
            local fields = failure(place, [[
                assert(httpc:connect({ scheme = "https", host = "localhost", port = ${port},
                                       ssl_trusted_certificate = "${cert.ca.crt}" }))
                assert(not httpc:request({ path = "/" }))
            ]], { port = server.port })
            assert_fields({ code = "client_certificate_required", stage = "response",
                            host = "localhost", port = tostring(server.port), alert = "116",
                            reused = "0", attempt = "1" }, fields)
        end)

        it("tells how long it took, of a request_uri in all", function()
            local server = scripted.serve({ script = {
                peer.receive_until("\r\n\r\n"), peer.sleep(0.2),
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"), peer.hang(),
            } })
            local fields = failure(place, [[
                assert(not httpc:request_uri("http://localhost:${port}/", { deadline = 400 }))
            ]], { port = server.port })
            assert_fields({ code = "read_timeout", stage = "body" }, fields)
            local elapsed = tonumber(fields.elapsed_ms)
            assert.is_true(elapsed >= 399 and elapsed < 5000, fields.line)
        end)

        it("tells that the request had been sent again", function()
            local head = peer.receive_until("\r\n\r\n")
            local server = scripted.serve({ scripts = {
                { head, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), head,
                  peer.close() },
                { head, peer.close() },
            } })
            local fields = failure(place, [[
                assert(httpc:request_uri("http://localhost:${port}/"))
                assert(not httpc:request_uri("http://localhost:${port}/"))
            ]], { port = server.port })
            assert_fields({ code = "closed", stage = "response", reused = "0", attempt = "2" },
                          fields)
        end)

        it("tells that the connection was an old one", function()
            local head = peer.receive_until("\r\n\r\n")
            local server = scripted.serve({ script = {
                head, peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), head,
                peer.send("garbage\r\n\r\n"),
            } })
            local fields = failure(place, [[
                assert(httpc:request_uri("http://localhost:${port}/"))
                assert(not httpc:request_uri("http://localhost:${port}/"))
            ]], { port = server.port })
            assert_fields({ code = "http_malformed", reused = "1", attempt = "1" }, fields)
        end)

        it("tells of HTTP/2 as well", function()
            local server = scripted.serve({ script = {
                peer.send(frames.SETTINGS), frames.await_request(1),
                peer.send(frames.reset(1, frames.INTERNAL_ERROR)), peer.receive_to_end(),
            } })
            local fields = failure(place, [[
                assert(not httpc:request_uri("http://localhost:${port}/", { http_version = 2 }))
            ]], { port = server.port })
            assert_fields({ code = "http2_reset", stage = "response", reused = "0" }, fields)
        end)

        it("tells of options that cannot be used, and of hosts that are none", function()
            local fields, log = failure(place, [[
                local ok = httpc:connect({ scheme = "https", port = 443,
                                           host = "user:s3cr3t@host code=forged\nline" })
                assert(not ok)
            ]])
            assert_fields({ code = "bad_argument", stage = "options", host = "-", port = "-" },
                          fields)
            assert.not_matches("s3cr3t", log, 1, true)
        end)

        it("has one line for a body that is asked for again", function()
            local server = scripted.serve({ script = {
                peer.receive_until("\r\n\r\n"),
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody"), peer.close(),
            } })
            local fields = failure(place, [[
                assert(httpc:connect({ scheme = "http", host = "localhost", port = ${port} }))
                local res = assert(httpc:request({}))
                assert(not res:read_body())
                assert(not res:read_body())
            ]], { port = server.port })
            assert_fields({ code = "closed", stage = "body" }, fields)
        end)

        it("is off unless set, and can be turned off again", function()
            local code = [[
                local http = require("resty.mtls.http")
                ${defaults}
                assert(not http.new():request_uri("http://127.0.0.1:${port}/"))
            ]]
            for _, defaults in ipairs({
                "", "http.set_defaults({ log_failures = true }) "
                    .. "http.set_defaults({ log_failures = false })",
            }) do
                local _, log = place.run(code, { defaults = defaults, port = ports.free() })
                assert.same({}, failures_of(log))
            end
        end)
    end)
end


describe("log_failures", function()
    it("goes for Lua VMs that come later as well", function()
        local gateway = nginx.gateway({ code_cache = "off" })
        gateway:run("require('resty.mtls.http').set_defaults({ log_failures = true })")
        gateway:run([[
            assert(not require("resty.mtls.http").new():request_uri("http://127.0.0.1:${port}/"))
        ]], { vars = { port = ports.free() } })
        assert.equals(1, #failures_of(gateway:error_log()))
        assert.matches("%[warn%][^\n]*resty%.mtls: request failed ", gateway:error_log())
        gateway:stop()
    end)

    it("has to be a boolean", function()
        local ok, _, details = require("resty.mtls.http").set_defaults({ log_failures = "warn" })
        assert.same({ "bad_argument" }, { details.code })
        assert.is_nil(ok)
    end)

    -- What a server says ends up in hints and messages.
    it("cannot be made to say what a hostile server wants", function()
        local forged = 'x" code=forged\27[2J\r\n2026/01/01 00:00:00 [crit] forged \194\155'
        local gateway = nginx.gateway()
        local output = gateway:run(PRELUDE .. [[
            local failures = require("resty.mtls.failure")
            httpc.host, httpc.port = ${forged}, 443
            failures.note(httpc, "closed", { code = ${forged}, stage = ${forged}, alert = 40,
                                             hint = ${forged} })
            return #require("resty.mtls.log").escape(("\n"):rep(100000))
        ]], { vars = { forged = ("%q"):format(forged) } })
        assert.equals("2003\n", output)
        local log = gateway:error_log()
        local found = failures_of(log)
        assert.equals(1, #found, log)
        assert.not_matches("\n2026/01/01", log, 1, true)
        assert.not_matches("[\27\194\155\r]", found[1].line)
        for _, name in ipairs({ "code", "stage", "host", "hint" }) do
            assert.matches('x\\" code=forged\\x1B[2J\\x0D\\x0A', found[1][name], 1, true)
        end
        assert.equals("40", found[1].alert)
        gateway:stop()
    end)

    it("does not tell what is secret", function()
        local gateway = nginx.gateway()
        local port = ports.free()
        gateway:run(PRELUDE .. [[
            local key = ${pem.client-a.key}
            local secret = { authorization = "Bearer s3cr3t", cookie = "s3cr3t" }
            httpc:request_uri("http://user:s3cr3t@127.0.0.1:${port}/?s3cr3t")
            httpc:request_uri("http://127.0.0.1:${port}/?s3cr3t", { headers = secret })
            httpc:request_uri("http://127.0.0.1/", {
                proxy_opts = { http_proxy = "http://user:s3cr3t@127.0.0.1:${port}" } })
            httpc:connect({ scheme = "https", host = "127.0.0.1", port = ${port},
                            ssl_cert_path = key, ssl_key_path = key, ssl_key_password = "s3cr3t" })
            httpc:connect({ scheme = "https", host = "127.0.0.1", port = ${port}, ssl_cert = key,
                            ssl_key = key, ssl_key_password = "s3cr3t" })
        ]], { vars = { port = port } })
        local log = gateway:error_log()
        assert.equals(5, #failures_of(log), log)
        assert.not_matches("s3cr3t", log, 1, true)
        assert.not_matches("czNjcjN0", log, 1, true)
        tells_no_secret(log, { key = certs.read("client-a.key") })
        gateway:stop()
    end)
end)
