local client = require("spec.support.client")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local process = require("spec.support.process")

local PRELUDE = [[
    local http = require("resty.mtls.http")
    local target = {
        scheme = "https", host = "localhost", port = ${port},
        ssl_cert_path = "${cert.client-rsa.crt}", ssl_key_path = "${cert.client-rsa.key}",
        ssl_trusted_certificate = "${cert.ca.crt}",
    }

    local function request(path)
        local httpc = http.new()
        assert(httpc:connect(target))
        local res = assert(httpc:request{ path = path })
        local body = assert(res:read_body())
        assert(httpc:close())
        return body
    end

    -- Goes on in that many light threads until the spec says stop.
    local function until_stopped(threads, action)
        local count, deadline = 0, ngx.now() + 20
        local function loop()
            while not io.open("${dir}/stop") and ngx.now() < deadline do
                action()
                count = count + 1
            end
        end
        local spawned = {}
        for i = 1, threads do spawned[i] = ngx.thread.spawn(loop) end
        for i = 1, threads do assert(ngx.thread.wait(spawned[i])) end
        return count
    end
]]


-- The gateway has one worker, so that whatever it waits for is waited for by all its requests.
describe("the event loop goes on", function()
    local server, gateway

    setup(function()
        -- Without tickets every handshake is a full one.
        server = nginx.upstream({ tickets = "off", http = "ssl_session_cache off;" })
    end)

    teardown(function() server:stop() end)

    before_each(function() gateway = nginx.gateway() end)

    after_each(function() gateway:stop() end)

    local function counter(name)
        return tonumber(gateway:run("return require('resty.mtls.http').stats()." .. name))
    end

    local function begin(code)
        return gateway:begin(PRELUDE .. code, { vars = { port = server.port } })
    end

    -- Has the worker answer `count` requests, one after the other. That they are answered before
    -- the slow work is done is the verdict: 200 of them within 3 seconds leave 15 ms for each.
    local function answers(count)
        for _ = 1, count do
            local response = assert(client.fetch({ port = gateway.port, path = "/ok" }))
            assert.equals("ok", response.body)
        end
    end

    it("while a response takes 3 seconds", function()
        local slow = begin('return request("/slow?s=3")')
        process.wait_until("the upstream has the request", function()
            return counter("requests") == 1
        end)
        answers(200)
        assert.is_false(slow:is_done(), "the worker answered nobody else in 3 seconds")
        assert.equals("slow\n", slow:wait())
    end)

    it("while many responses take their time", function()
        local slow = begin([[
            local threads = {}
            for i = 1, 50 do threads[i] = ngx.thread.spawn(request, "/slow?s=3") end
            local done = 0
            for i = 1, 50 do
                local _, body = ngx.thread.wait(threads[i])
                done = done + (body == "slow" and 1 or 0)
            end
            return done
        ]])
        process.wait_until("the upstream has the requests", function()
            return counter("requests") == 50
        end)
        answers(200)
        assert.is_false(slow:is_done(), "the worker answered nobody else in 3 seconds")
        assert.equals("50\n", slow:wait())
    end)

    it("while there is one handshake after the other", function()
        local handshakes = begin('return until_stopped(8, function() request("/echo") end)')
        process.wait_until("there are handshakes", function()
            return counter("handshakes_full") > 8
        end)
        answers(200)
        assert.is_false(handshakes:is_done())
        process.wait_until("there are more handshakes", function()
            return counter("handshakes_full") > 20
        end)
        fs.write(gateway.dir .. "/stop", "")
        local count = tonumber(handshakes:wait())
        assert.is_true(counter("handshakes_full") >= count)
        assert.equals(0, counter("handshakes_failed"))
    end)

    it("while a server keeps silent in a handshake", function()
        local silent = peer.start({ script = { peer.hang() } })
        local waiting = gateway:begin([[
            local httpc = require("resty.mtls.http").new()
            httpc:set_timeout(3000)
            local _, err, details = httpc:connect{ scheme = "https", host = "localhost",
                                                   port = ${port} }
            return err, details.code
        ]], { vars = { port = silent.port } })
        silent:wait_for_event("1 accepted")
        answers(200)
        assert.is_false(waiting:is_done(), "the worker answered nobody else in 3 seconds")
        assert.equals("timeout\ttls_timeout\n", waiting:wait())
        silent:stop()
    end)

    it("while large bodies go by", function()
        local bodies = begin([[
            local bytes = 0
            until_stopped(2, function()
                local httpc = http.new()
                assert(httpc:connect(target))
                local res = assert(httpc:request{ path = "/bytes?n=8000000" })
                repeat
                    local part, err = res.body_reader(65536)
                    assert(not err, err)
                    bytes = bytes + #(part or "")
                until not part
                assert(httpc:set_keepalive())
            end)
            return bytes
        ]])
        process.wait_until("there are bodies", function() return counter("requests") >= 2 end)
        answers(200)
        assert.is_false(bodies:is_done())
        fs.write(gateway.dir .. "/stop", "")
        local bytes = tonumber(bodies:wait())
        assert.is_true(bytes > 0 and bytes % 8000000 == 0, bytes .. " bytes")
    end)
end)
