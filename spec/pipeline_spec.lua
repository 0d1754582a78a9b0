--- request_pipeline: all requests are sent before the first response is read.
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local pack = scripted.pack

local HEAD = peer.receive_until("\r\n\r\n")


local function answer(body, status)
    return "HTTP/1.1 " .. (status or "200 OK") .. "\r\nContent-Length: " .. #body .. "\r\n\r\n"
        .. body
end


after_each(scripted.finish)


-- Requests /1, /2 and /3 on a connection to a peer with this script.
local function three(script)
    local httpc, server = scripted.connected(script)
    local values = pack(httpc:request_pipeline({ { path = "/1" }, { path = "/2" },
                                                 { path = "/3" } }))
    assert.equals(1, values.n, values[2])
    assert.equals(3, #values[1])
    return values[1], httpc, server
end


-- A script that answers nothing before it has all three requests.
local function patient(...)
    return { HEAD, HEAD, HEAD, ... }
end


describe("a pipeline", function()
    it("has sent all its requests before the first answer", function()
        local responses, httpc, server = three(patient(peer.pause(),
            peer.send(answer("one") .. answer("two", "404 None") .. answer("three")),
            peer.receive_to_end()))
        server:wait_for_event("1 waits")
        assert.matches("^GET /1 .*\r\n\r\nGET /2 .*\r\n\r\nGET /3 .*\r\n\r\n$", server:received(1))
        server:resume()
        local found = {}
        for i, res in ipairs(responses) do
            found[i] = res.status .. " " .. res:read_body()
        end
        assert.same({ "200 one", "404 two", "200 three" }, found)
        assert.equals(1, httpc:set_keepalive())
    end)

    it("reads a response when a field of it is touched", function()
        local responses, _, server = three(patient(peer.send(answer("one")), peer.pause(),
                                                   peer.send(answer("two")), peer.pause(),
                                                   peer.send(answer("three")),
                                                   peer.receive_to_end()))
        -- None of this reads: the server has not answered.
        assert.is_nil(next(responses[2]))
        assert.equals("one", responses[1]:read_body())
        assert.is_nil(next(responses[2]))
        server:resume()
        assert.equals(200, responses[2].status)
        assert.equals("two", responses[2]:read_body())
        server:resume()
        assert.equals("three", responses[3]:read_body())
    end)

    it("is read in any order, and each body stays with its response", function()
        local bytes = peer.send(answer("one") .. "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked"
                                .. "\r\n\r\n2\r\ntw\r\n1\r\no\r\n0\r\n\r\n" .. answer("three"))
        for _, order in ipairs({ { 3, 2, 1 }, { 2, 1, 3 }, { 3, 1, 2 }, { 1, 3, 2 } }) do
            local responses = three(patient(bytes, peer.receive_to_end()))
            local found = {}
            for _, i in ipairs(order) do
                assert.equals(200, responses[i].status)
            end
            for _, i in ipairs(order) do
                found[i] = responses[i]:read_body()
            end
            assert.same({ "one", "two", "three" }, found)
        end
    end)

    it("has a body reader for each body, also for one that was passed by", function()
        local responses = three(patient(peer.send(answer("first") .. answer("second")
                                                  .. answer("third")), peer.receive_to_end()))
        assert.equals(200, responses[3].status)
        for i, parts in ipairs({ { "fir", "st" }, { "sec", "ond" }, { "thi", "rd" } }) do
            local reader = responses[i].body_reader
            assert.same(parts, { reader(3), reader(3) })
            assert.same({ n = 1 }, pack(reader(3)))
        end
    end)

    it("goes on where an earlier body was half read", function()
        local responses = three(patient(peer.send(answer("one") .. answer("two")
                                                  .. answer("three")), peer.receive_to_end()))
        assert.equals("o", responses[1].body_reader(1))
        assert.equals("two", responses[2]:read_body())
        assert.equals("ne", responses[1]:read_body())
        assert.equals("three", responses[3]:read_body())
    end)

    it("knows the method of each request", function()
        local httpc = scripted.connected({ HEAD, HEAD, peer.receive_until("body"),
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" .. answer("two")
                      .. "HTTP/1.1 204 No Content\r\n\r\n" .. answer("four")),
            peer.receive_to_end() })
        local responses = assert(httpc:request_pipeline({
            { method = "HEAD" }, {}, { method = "DELETE" }, { method = "POST", body = "body" },
        }))
        assert.equals("", responses[1]:read_body())
        assert.equals("two", responses[2]:read_body())
        assert.same({ 204, "" }, { responses[3].status, responses[3]:read_body() })
        assert.equals("four", responses[4]:read_body())
        assert.equals(1, httpc:set_keepalive())
    end)

    it("has responses of the fields of all others, which callers may write to", function()
        local responses = three(patient(peer.send(answer("one") .. answer("two")
                                                  .. answer("three")), peer.receive_to_end()))
        local res = responses[1]
        assert.same({ 200, "OK", "3", true }, { res.status, res.reason,
                                                res.headers["content-length"], res.has_body })
        assert.is_nil(res.no_such_field)
        res.mine = 1
        assert.equals(1, res.mine)
    end)

    it("that breaks in the middle gives what came before, and nothing after", function()
        for _, ending in ipairs({ "nonsense\r\n\r\n" .. answer("evil"), "",
                                  "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal" }) do
            local responses, httpc = three(patient(peer.send(answer("one") .. ending),
                                                   peer.shutdown_send(), peer.receive_to_end()))
            assert.equals("one", responses[1]:read_body())
            local body = responses[2].status and responses[2]:read_body()
            assert.falsy(body)
            assert.is_nil(responses[3].status)
            assert.is_nil(responses[3].read_body)
            assert.not_equals(1, (httpc:set_keepalive()))
        end
    end)

    it("that the server closes after a response gives no more", function()
        local responses, httpc = three(patient(peer.send(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\none"),
            peer.shutdown_send(), peer.receive_to_end()))
        assert.equals("one", responses[1]:read_body())
        assert.is_nil(responses[2].status)
        assert.is_nil(responses[3].status)
        assert.not_equals(1, (httpc:set_keepalive()))
    end)

    it("is not broken by an error status that comes while it is being sent", function()
        local server = scripted.serve({ script = {
            HEAD, peer.send(answer("none", "404 Not Found")), peer.pause(),
            peer.receive_until("the END"), peer.send(answer("two")), peer.receive_to_end(),
        } })
        local httpc = scripted.connect(server)
        local parts = { "the ", "END" }
        local responses = assert(httpc:request_pipeline({
            { path = "/1" },
            { path = "/2", method = "POST", headers = { ["Content-Length"] = 7 },
              body = function()
                  -- The 404 has been sent when the body begins.
                  server:wait_for_event("1 waits")
                  if #parts == 2 then
                      server:resume()
                  end
                  return table.remove(parts, 1)
              end },
        }))
        assert.same({ 404, "none" }, { responses[1].status, responses[1]:read_body() })
        assert.same({ 200, "two" }, { responses[2].status, responses[2]:read_body() })
    end)

    it("refuses Expect, and what it cannot send, before a byte is sent", function()
        local httpc, server = scripted.connected({ HEAD, peer.send(answer("good")),
                                                   peer.receive_to_end() })
        for _, case in ipairs({
            { { {}, { method = "POST", body = "x", headers = { expect = "100-Continue" } } },
              "Cannot pipeline request specifying Expect: 100-continue" },
            { { {}, 7 }, "bad request parameters" },
        }) do
            local values = pack(httpc:request_pipeline(case[1]))
            assert.is_nil(values[1])
            assert.matches(case[2], values[2], 1, true)
            assert.same({ 3, "bad_argument" }, { values.n, values[3].code })
        end
        assert.equals("good", assert(httpc:request({ path = "/good" })):read_body())
        assert.matches("^GET /good ", server:received(1))
    end)

    it("of nothing is nothing, and without a connection an error", function()
        local httpc = scripted.connected({ peer.receive_to_end() })
        assert.same({}, (httpc:request_pipeline({})))
        assert.equals(1, httpc:set_keepalive())
        local values = pack(http.new():request_pipeline({ {}, {} }))
        assert.same({ 3, "closed", "closed" }, { values.n, values[2], values[3].code })
    end)

    it("is served by a real server, in nginx", function()
        local upstream, gateway = nginx.upstream(), nginx.gateway()
        assert.equals("200 /echo?1\n200 /echo?2\n404 \n200 /echo?4\n1\n", gateway:run([[
            local httpc = require("resty.mtls.http").new()
            assert(httpc:connect("127.0.0.1", ${port}))
            local responses = assert(httpc:request_pipeline({
                { path = "/echo?1" }, { path = "/echo?2" }, { path = "/none" },
                { path = "/echo?4" },
            }))
            for _, res in ipairs(responses) do
                print(res.status .. " " .. (res:read_body():match("\nuri: (%S+)") or ""))
            end
            print(httpc:set_keepalive())
        ]], { vars = { port = upstream.ports.plain } }))
        gateway:stop()
        upstream:stop()
    end)
end)
