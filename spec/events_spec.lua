--- Server-sent events: each is delivered as it arrives, for as long as the caller wants.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local scripted = require("spec.support.scripted")

local HEAD = peer.receive_until("\r\n\r\n")
local OK = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
local STREAM = OK .. "Transfer-Encoding: chunked\r\n\r\n"

local gateway


setup(function() gateway = nginx.gateway() end)

teardown(function() gateway:stop() end)

after_each(scripted.finish)


local function chunk(text)
    return ("%x\r\n%s\r\n"):format(#text, text)
end


-- Opens a stream of events in nginx. Each event is written to a file, so that the spec sees it.
local OPEN = prelude .. [[
    local httpc = http.new()
    httpc:set_timeouts(10000, 10000, ${timeout})
    assert(httpc:connect({ scheme = "${scheme}", host = "localhost", port = ${port},
                           ssl_trusted_certificate = "${scheme}" == "https" and ${pem.ca.crt}
                               or nil }))
    local res = assert(httpc:request({ path = "/events" }))
    local count = 0

    local function show(event)
        count = count + 1
        local file = assert(io.open("${folder}/" .. count .. ".new", "wb"))
        file:write(event)
        file:close()
        os.rename("${folder}/" .. count .. ".new", "${folder}/" .. count)
    end

    -- What ended the events, and how many there were.
    local function follow()
        while true do
            local event, err, details = res.body_reader()
            if not event then
                return count, err, details and details.code
            end
            show(event)
        end
    end
]]


local function begin(server, code, timeout)
    local folder = fs.temp_dir("events")
    local run = gateway:begin(OPEN .. code, { vars = {
        up = server.port, port = server.port, scheme = server.is_tls and "https" or "http",
        folder = folder, timeout = timeout or 10000,
    } })
    return run, function(number)
        return process.wait_until("event " .. number .. " is delivered", function()
            return fs.read(folder .. "/" .. number)
        end)
    end
end


describe("a stream of events", function()
    for name, tls in pairs({ ["http"] = false, ["https"] = {} }) do
        it("is delivered event by event over " .. name, function()
            local server = scripted.serve({ tls = tls or nil, script = {
                HEAD, peer.send(STREAM), peer.pause(), peer.send(chunk("data: 1\n\n")),
                peer.pause(), peer.send(chunk("data: 2\n\n") .. chunk("data: 3\n\n")),
                peer.pause(), peer.send("0\r\n\r\n"), peer.receive_to_end(),
            } })
            server.is_tls = tls and true
            local run, event = begin(server, "print(follow()) print(httpc:set_keepalive())")
            server:wait_for_event("1 waits")
            -- The next one is sent when the one before has been seen.
            server:resume()
            assert.equals("data: 1\n\n", event(1))
            server:resume()
            assert.equals("data: 2\n\n", event(2))
            assert.equals("data: 3\n\n", event(3))
            server:resume()
            assert.equals("3\tnil\tnil\n1\n", run:wait())
        end)
    end

    it("is delivered event by event outside of nginx", function()
        local httpc, server = scripted.connected({
            HEAD, peer.send(STREAM), peer.pause(), peer.send(chunk("data: 1\n\n")), peer.pause(),
            peer.send(chunk("data: 2\n\n")), peer.receive_to_end(),
        })
        local res = assert(httpc:request({}))
        server:resume()
        assert.equals("data: 1\n\n", res.body_reader())
        server:resume()
        assert.equals("data: 2\n\n", res.body_reader())
    end)

    it("gives an event whole though it comes in pieces, and not with the next one", function()
        local server = scripted.serve({ script = {
            HEAD, peer.send(STREAM .. "9\r\ndata"), peer.pause(), peer.send(": 1\n\n\r\n"),
            peer.pause(), peer.send(chunk("data: 2\n\n") .. "0\r\n\r\n"), peer.receive_to_end(),
        } })
        local run, event = begin(server, "print(follow())")
        server:wait_for_event("1 waits")
        server:resume()
        assert.equals("data: 1\n\n", event(1))
        server:resume()
        assert.equals("2\tnil\tnil\n", run:wait())
        assert.equals("data: 2\n\n", event(2))
    end)

    it("is delivered in parts to who reads with a size", function()
        local httpc, server = scripted.connected({
            HEAD, peer.send(STREAM .. chunk("data: 1\n\n")), peer.pause(),
            peer.send(chunk("data: 2\n\n")), peer.receive_to_end(),
        })
        local res = assert(httpc:request({}))
        assert.equals("data: 1\n\n", res.body_reader(8192))
        server:resume()
        assert.equals("data", res.body_reader(4))
        assert.equals(": 2\n\n", res.body_reader(8192))
    end)

    it("outlasts the time-outs while events come, and ends with one when they do not", function()
        local httpc = scripted.connected({
            HEAD, peer.send(STREAM), peer.sleep(0.3), peer.send(chunk("1")), peer.sleep(0.3),
            peer.send(chunk("2")), peer.sleep(0.3), peer.send(chunk("3")), peer.receive_to_end(),
        })
        httpc:set_timeouts(10000, 10000, 800)
        local res = assert(httpc:request({}))
        assert.same({ "1", "2", "3" }, { res.body_reader(), res.body_reader(),
                                         (res.body_reader()) })
        local event, err, details = res.body_reader()
        assert.same({ nil, "timeout", "read_timeout" }, { event, err, details.code })
    end)

    it("is not ended by a consumer that takes its time", function()
        local httpc, server = scripted.connected({
            HEAD, peer.send(STREAM .. chunk("1")), peer.pause(),
            peer.send(chunk("2") .. "0\r\n\r\n"), peer.receive_to_end(),
        })
        httpc:set_timeouts(10000, 10000, 100)
        local res = assert(httpc:request({}))
        assert.equals("1", res.body_reader())
        -- Longer than the read timeout, in which nobody reads.
        require("system").sleep(0.3)
        server:resume()
        server:wait_for_event("1 waits")
        assert.equals("2", res.body_reader())
        assert.is_nil((res.body_reader()))
        assert.equals(1, httpc:set_keepalive())
    end)

    it("that breaks off ends with an error, after what had come", function()
        local server = scripted.serve({ script = { HEAD, peer.send(STREAM .. chunk("data: 1\n\n")),
                                                   peer.close() } })
        local run, event = begin(server, "print(follow())")
        assert.equals("1\tclosed\tclosed\n", run:wait())
        assert.equals("data: 1\n\n", event(1))
    end)
end)


describe("close from another light thread", function()
    for name, tls in pairs({ ["http"] = false, ["https"] = {} }) do
        it("ends the reader that waits, over " .. name, function()
            local server = scripted.serve({ tls = tls or nil, script = {
                HEAD, peer.send(STREAM .. chunk("data: 1\n\n")), peer.receive_to_end(),
            } })
            server.is_tls = tls and true
            local run = begin(server, [[
                local thread = ngx.thread.spawn(follow)
                assert(wait_until(function() return count == 1 end))
                -- It waits for the next event by now.
                assert(wait_until(function() return stats().operations_in_flight == 1 end))
                print(httpc:close())
                print(ngx.thread.wait(thread))
                local event, err = res.body_reader()
                print(event, err)
                print(wait_until(function()
                    local counters = stats()
                    return counters.operations_in_flight == 0
                        and counters.connections_open == counters.connections_idle
                end))
            ]], 600000)
            assert.equals("1\ntrue\t1\tclosed\tclosed\nnil\tclosed\ntrue\n", run:wait())
            server:wait_for_event("1 read: ")
        end)
    end

    it("leaves the client ready for another connection", function()
        local server = scripted.serve({ scripts = {
            { HEAD, peer.send(STREAM .. chunk("data: 1\n\n")), peer.receive_to_end() },
            { HEAD, peer.send(OK .. "Content-Length: 3\r\n\r\nnew"), peer.receive_to_end() },
        } })
        local run = begin(server, [[
            local thread = ngx.thread.spawn(follow)
            assert(wait_until(function() return count == 1 end))
            httpc:close()
            assert(httpc:connect("localhost", ${port}))
            print(httpc:get_reused_times(), assert(httpc:request({})):read_body())
            print(ngx.thread.wait(thread))
        ]])
        assert.equals("0\tnew\ntrue\t1\tclosed\tclosed\n", run:wait())
    end)

    it("ends a request that waits for its response head", function()
        local server = scripted.serve({ scripts = {
            { HEAD, peer.send(STREAM), peer.receive_to_end() }, { HEAD, peer.receive_to_end() },
        } })
        local run = begin(server, [[
            httpc:close()
            assert(httpc:connect("localhost", ${port}))
            local thread = ngx.thread.spawn(function()
                local none, err, details = httpc:request({ path = "/slow" })
                return none, err, details.code
            end)
            assert(wait_until(function() return stats().operations_in_flight == 1 end))
            print(httpc:close())
            print(ngx.thread.wait(thread))
        ]], 600000)
        assert.equals("1\ntrue\tnil\tclosed\tclosed\n", run:wait())
    end)

    it("by the reader itself ends the stream", function()
        local server = scripted.serve({ tls = {}, script = {
            HEAD, peer.send(STREAM .. chunk("1") .. chunk("2")), peer.receive_to_end(),
        } })
        local httpc = scripted.connect(server, { scheme = "https",
                                                 ssl_trusted_certificate = certs.path("ca.crt") })
        local res = assert(httpc:request({}))
        assert.equals("1", res.body_reader())
        assert.equals(1, httpc:close())
        server:wait_for_event("1 read: ")
    end)
end)
