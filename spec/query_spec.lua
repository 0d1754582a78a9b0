--- Query tables, and headers with several values.
local cjson = require("cjson")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local scripted = require("spec.support.scripted")

local EMPTY = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


after_each(scripted.finish)


-- What the library makes of each of the query tables, in this process.
local function encoded(queries)
    local script = {}
    for _ = 1, #queries do
        script[#script + 1] = peer.receive_until("\r\n\r\n")
        script[#script + 1] = peer.send(EMPTY)
    end
    script[#script + 1] = peer.receive_to_end()
    local httpc, server = scripted.connected(script)
    for _, query in ipairs(queries) do
        assert(httpc:request({ path = "/", query = query }))
    end
    local targets = {}
    for target in server:received(1):gmatch("GET /(%S*) HTTP/1.1\r\n") do
        targets[#targets + 1] = target
    end
    return targets
end


-- One key a table, so that there is no order to differ in.
local function many_queries()
    local queries = {}
    for byte = 0, 255 do
        queries[#queries + 1] = { [string.char(byte)] = "v" }
        queries[#queries + 1] = { k = string.char(byte) }
    end
    for _, value in ipairs({
        true, false, "", " ", "a b", "a+b", "a&b=c", "%41", "ä€", "!'()*-._~", "a/b?c#d:@",
        0, 1, -1, 1.5, 0.1, 1e15, 1e20, 123456789012, { 1, 2, 3 }, { "a", true, "b" },
        { "a", false }, {}, { "" }, { true }, { " ", "&", "=" }, ("x"):rep(5000),
    }) do
        queries[#queries + 1] = { k = value }
    end
    queries[#queries + 1] = {}
    queries[#queries + 1] = { [""] = "v" }
    return queries
end


describe("a query table", function()
    local gateway

    setup(function() gateway = nginx.gateway() end)

    teardown(function() gateway:stop() end)

    -- cjson has no byte strings, and its empty table is an object: Lua source carries it all.
    local function serialized(value)
        if type(value) == "boolean" then
            return tostring(value)
        elseif type(value) ~= "table" then
            return type(value) == "number" and ("%.17g"):format(value)
                or ("%q"):format(value):gsub("\r", "\\r"):gsub("%z", "\\0"):gsub("\\\n", "\\n")
        end
        local parts = {}
        for key, item in pairs(value) do
            parts[#parts + 1] = "[" .. serialized(key) .. "]=" .. serialized(item)
        end
        return "{" .. table.concat(parts, ",") .. "}"
    end

    it("is what ngx.encode_args makes of it, byte for byte", function()
        local queries = many_queries()
        local source = {}
        for i, query in ipairs(queries) do
            source[i] = serialized(query)
        end
        local expected = cjson.decode(gateway:run([[
            local encoded = {}
            for i, query in ipairs({ ${queries} }) do
                encoded[i] = ngx.encode_args(query)
            end
            print(require("cjson").encode(encoded))
        ]], { vars = { queries = table.concat(source, ",\n") } }))
        assert.equals(#queries, #expected)
        local got = encoded(queries)
        assert.equals(#queries, #got)
        for i = 1, #queries do
            local wanted = expected[i] == "" and "" or "?" .. expected[i]
            assert.equals(wanted, got[i])
        end
    end)

    it("is the same in nginx as outside of it", function()
        local query = "{ ['a b'] = { \"!'()*\", true, 1.5, '\\0\\255~' } }"
        local recorder = scripted.serve({ script = { peer.receive_until("\r\n\r\n"),
                                                     peer.send(EMPTY), peer.receive_to_end() } })
        local expected = gateway:run([[
            local query = ${query}
            local httpc = require("resty.mtls.http").new()
            assert(httpc:connect({ scheme = "http", host = "127.0.0.1", port = ${port} }))
            assert(httpc:request({ path = "/", query = query }))
            httpc:close()
            print(ngx.encode_args(query))
        ]], { vars = { port = recorder.port, query = query } })
        assert.equals(expected, recorder:received(1):match("^GET /%?(%S*) HTTP") .. "\n")
        assert.equals(expected, encoded({ loadstring("return " .. query)() })[1]:sub(2) .. "\n")
    end)

    it("with several keys has each of them once", function()
        local target = encoded({ { a = 1, b = true, c = { "x", "y" }, d = false } })[1]
        local parts = {}
        for part in target:gsub("^%?", ""):gmatch("[^&]+") do
            parts[#parts + 1] = part
        end
        table.sort(parts)
        assert.same({ "a=1", "b", "c=x", "c=y" }, parts)
    end)

    it("goes behind a path, and a string goes as it is", function()
        assert.same({ "?a=%20", "?a=+&b", "?x" },
                    encoded({ { a = " " }, "a=+&b", "?x" }))
    end)
end)


describe("a header with several values", function()
    local function lines_of(headers, name)
        local httpc, server = scripted.connected({ peer.receive_until("\r\n\r\n"),
                                                   peer.send(EMPTY), peer.receive_to_end() })
        assert(httpc:request({ headers = headers }))
        local lines = {}
        for value in server:received(1):gmatch("\r\n" .. name .. ": ([^\r\n]*)") do
            lines[#lines + 1] = value
        end
        return lines
    end

    it("is a line for each, in order", function()
        assert.same({ "one", "2", "three" }, lines_of({ ["X-Many"] = { "one", 2, "three" } },
                                                      "X%-Many"))
        assert.same({ "one" }, lines_of({ ["X-Many"] = { "one" } }, "X%-Many"))
        assert.same({}, lines_of({ ["X-Many"] = {} }, "X%-Many"))
    end)

    it("is checked value by value, before a byte is sent", function()
        local httpc, server = scripted.connected({ peer.receive_until("\r\n\r\n"),
                                                   peer.send(EMPTY), peer.receive_to_end() })
        for _, value in ipairs({ "a\r\nX-Evil: 1", "a\nb", "a\0b", "a\rb" }) do
            local res, err, details = httpc:request({ headers = { ["X-Many"] = { "ok", value } } })
            assert.is_nil(res)
            assert.matches("invalid characters found in header value", err, 1, true)
            assert.equals("bad_argument", details.code)
        end
        assert(httpc:request({ path = "/good" }))
        assert.matches("^GET /good ", server:received(1))
    end)
end)
