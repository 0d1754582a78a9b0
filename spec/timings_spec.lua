-- res.timings. How long something takes decides nothing here, but for what a server waits and what
-- a call as a whole has taken.
local certs = require("spec.support.certs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local places = require("spec.support.places")
local scripted = require("spec.support.scripted")
local secure = require("spec.support.secure")
local system = require("system")

local FIELDS = { "resolve", "connect", "tls", "first_byte", "total" }

local server


setup(function() server = nginx.upstream({ verify = "off" }) end)

teardown(function() server:stop() end)

after_each(scripted.finish)


-- Checks what holds for all of them.
local function checked(timings)
    for _, name in ipairs(FIELDS) do
        assert.equals("number", type(timings[name]), name)
        assert.is_true(timings[name] >= 0, name .. ": " .. timings[name])
    end
    assert.equals("boolean", type(timings.reused))
    assert.is_true(timings.total >= timings.first_byte)
    assert.is_true(timings.first_byte > 0)
    return timings
end


local function assert_opened(timings)
    assert.is_false(timings.reused)
    assert.is_true(timings.connect > 0)
    local opening = timings.resolve + timings.connect + timings.tls
    -- Sums of fractions that are cut off.
    assert.is_true(timings.total + 0.01 >= opening + timings.first_byte)
end


local function assert_reused(timings)
    assert.same({ true, 0, 0, 0 },
                { timings.reused, timings.resolve, timings.connect, timings.tls })
end


local function get(httpc, path)
    local res = assert(httpc:request({ path = path or "/echo" }))
    assert(res:read_body())
    return checked(res.timings)
end


describe("res.timings", function()
    it("tell what opening a connection has taken, and 0 when it was there", function()
        local httpc = secure.connect(server)
        local first = get(httpc)
        assert_opened(first)
        assert.is_true(first.tls > 0)
        assert_reused(get(httpc))
        assert.equals(1, httpc:set_keepalive())
        httpc = secure.connect(server)
        assert.equals(1, httpc:get_reused_times())
        assert_reused(get(httpc))
        httpc:close()
    end)

    it("have no tls for http", function()
        local httpc = scripted.connect(server.ports.plain)
        local timings = get(httpc)
        assert_opened(timings)
        assert.equals(0, timings.tls)
        assert_reused(get(httpc))
    end)

    it("are milliseconds", function()
        local began = system.monotime()
        local httpc = secure.connect(server)
        local timings = get(httpc, "/slow?s=0.2")
        local taken = (system.monotime() - began) * 1000
        httpc:close()
        -- nginx waits by a clock that it looks at now and then, so not exactly that long.
        assert.is_true(timings.first_byte >= 100, timings.first_byte)
        assert.is_true(timings.total <= taken + 1, timings.total .. " of " .. taken)
    end)

    it("are whole with request_uri", function()
        local uri = "https://localhost:" .. server.port .. "/echo"
        local options = { ssl_trusted_certificate = certs.path("ca.crt"),
                          ssl_max_version = "TLSv1.2" }
        assert_opened(checked(assert(http.new():request_uri(uri, options)).timings))
        assert_reused(checked(assert(http.new():request_uri(uri, options)).timings))
        options.keepalive = false
        assert_reused(checked(assert(http.new():request_uri(uri, options)).timings))
        assert_opened(checked(assert(http.new():request_uri(uri, options)).timings))
    end)

    it("go on until the body is read", function()
        local httpc, stand_in = scripted.connected({
            peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc"),
            peer.pause(), peer.sleep(0.2), peer.send("def"), peer.receive_to_end(),
        })
        local res = assert(httpc:request({ path = "/" }))
        local to_head = checked(res.timings).total
        assert.equals("abc", res.body_reader(3))
        stand_in:resume()
        assert.equals("def", res.body_reader(3))
        assert.is_nil(res.body_reader(3))
        local to_end = checked(res.timings)
        assert.is_true(to_end.total >= to_head + 150, to_end.total .. ", " .. to_head)
        assert.is_true(to_end.total >= to_end.first_byte + 150)
        -- It has ended, and its time with it.
        system.sleep(0.02)
        assert.equals(to_end.total, res.timings.total)
    end)

    it("are there for a response without a body", function()
        local httpc = secure.connect(server)
        local res = assert(httpc:request({ method = "HEAD", path = "/echo" }))
        assert_opened(checked(res.timings))
        httpc:close()
    end)

    it("are there for send_request and read_response", function()
        local httpc = secure.connect(server)
        for i = 1, 2 do
            assert(httpc:send_request({ path = "/echo" }))
            local res = assert(httpc:read_response({ path = "/echo" }))
            assert(res:read_body())
            local assert_right = i == 1 and assert_opened or assert_reused
            assert_right(checked(res.timings))
        end
        httpc:close()
    end)

    it("are there for each response of a pipeline", function()
        local httpc = secure.connect(server)
        local responses = assert(httpc:request_pipeline({
            { path = "/echo" }, { path = "/echo" }, { path = "/echo" },
        }))
        for _, res in ipairs(responses) do
            assert.equals(200, res.status)
            assert(res:read_body())
            checked(res.timings)
        end
        assert_opened(responses[1].timings)
        assert_reused(responses[2].timings)
        assert_reused(responses[3].timings)
        httpc:close()
    end)

    it("are those of the new connection if a request was sent again", function()
        local head = peer.receive_until("\r\n\r\n")
        local answer = peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        local stand_in = scripted.serve({ scripts = {
            { head, answer, head, peer.close() }, { head, answer, peer.receive_to_end() },
        } })
        local httpc = scripted.connect(stand_in)
        get(httpc, "/first")
        assert.equals(1, httpc:set_keepalive())
        httpc = scripted.connect(stand_in)
        assert.equals(1, httpc:get_reused_times())
        local timings = get(httpc, "/second")
        assert.equals(2, stand_in:connections())
        assert.is_false(timings.reused)
        assert.is_true(timings.connect > 0)
    end)
end)


for _, place in ipairs(places) do
    describe("res.timings in " .. place.name, function()
        it("are numbers, and tell a new connection from one that was there", function()
            local output = place.run([[
                local http = require("resty.mtls.http")
                for _ = 1, 2 do
                    local res = assert(http.new():request_uri("https://localhost:${up}/echo", {
                        ssl_trusted_certificate = ${pem.ca.crt},
                    }))
                    local timings = res.timings
                    print(timings.reused, timings.tls > 0, timings.connect > 0,
                          timings.first_byte > 0, timings.total >= timings.first_byte)
                end
            ]], { up = server.port })
            assert.equals("false\ttrue\ttrue\ttrue\ttrue\ntrue\tfalse\tfalse\ttrue\ttrue\n", output)
        end)
    end)
end
