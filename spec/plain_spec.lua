local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local plain = require("spec.support.plain")
local prelude = require("spec.support.prelude")


local server

setup(function()
    server = nginx.upstream()
end)

teardown(function() server:stop() end)


local function run(chunk, more)
    local given = { up = server.port }
    for name, value in pairs(more or {}) do
        given[name] = value
    end
    return plain.run(prelude .. chunk, { vars = given })
end


describe("plain luajit", function()
    -- What there is when the program ends.
    local states = {
        ["after requests"] = [[
            for _ = 1, 3 do assert(get("/echo")) end
            assert(stats().connections_idle == 1)
        ]],
        ["with an open connection"] = [[
            httpc = http.new()
            assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                             port = ${up} }))
        ]],
        ["with a request in flight"] = [[
            httpc = http.new()
            assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                             port = ${up} }))
            assert(httpc:send_request({ path = "/slow?s=1" }))
        ]],
        ["with a body half read"] = [[
            httpc = http.new()
            assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                             port = ${up} }))
            local res = assert(httpc:request({ path = "/bytes?n=10000000" }))
            assert(#res.body_reader(65536) == 65536)
        ]],
        ["after a request that timed out"] = [[
            httpc = http.new()
            httpc:set_timeouts(1000, 1000, 50)
            assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                             port = ${up} }))
            local res, err = httpc:request({ path = "/slow?s=1" })
            assert(not res and err:find("timeout"), err)
        ]],
        ["after a failed connect"] = [[
            httpc = http.new()
            assert(not httpc:connect({ scheme = "http", host = "127.0.0.1", port = 1 }))
        ]],
        ["without a request"] = "httpc = http.new()",
    }

    local ends = {
        ["by running to its end"] = { "", 0, "" },
        ["with os.exit(0)"] = { "os.exit(0)", 0, "" },
        ["with os.exit(3, true)"] = { "os.exit(3, true)", 3, "" },
        ["with an error"] = { "error('oh no', 0)", 1,
                              "^luajit: oh no\nstack traceback:\n[^:]*:.*0x%x+\n$" },
    }

    for state, chunk in pairs(states) do
        it("exits cleanly " .. state, function()
            for how, ending in pairs(ends) do
                local code, pattern = ending[2], ending[3]
                local result = run(chunk .. "\nprint('so far') " .. ending[1])
                assert.equals(code, result.code, how .. result.stderr)
                assert.equals("so far\n", result.stdout, how)
                if pattern == "" then
                    assert.equals("", result.stderr, how)
                else
                    assert.matches(pattern, result.stderr, how)
                end
            end
        end)
    end

    it("exits cleanly while another Lua state of the process uses the library", function()
        local result = run([[
            local ffi = require("ffi")
            ffi.cdef("typedef struct lua_State lua_State; lua_State *luaL_newstate(void);"
                .. "void luaL_openlibs(lua_State *L); int luaL_loadstring(lua_State *L,"
                .. "const char *s); int lua_pcall(lua_State *L, int a, int r, int f);"
                .. "void lua_close(lua_State *L);")
            for round = 1, 3 do
                local state = ffi.C.luaL_newstate()
                ffi.C.luaL_openlibs(state)
                local code = ffi.C.luaL_loadstring(state, [=[
                    local http = require("resty.mtls.http")
                    local uri = "http://127.0.0.1:${plain}/bytes?n=7"
                    assert(http.new():request_uri(uri).body == "0123456")
                ]=])
                assert(code == 0 and ffi.C.lua_pcall(state, 0, 0, 0) == 0)
                assert(get("/bytes?n=5") == "01234")
                ffi.C.lua_close(state)
                assert(get("/bytes?n=5") == "01234")
            end
            print(stats().requests)
        ]], { plain = server.ports.plain })
        assert.same({ code = 0, stdout = "9\n", stderr = "" }, result)
    end)

    it("waits for a slow server with next to no processor time", function()
        local result = run([[
            local before = os.clock()
            assert(get("/slow?s=1") == "slow")
            print(os.clock() - before)
        ]])
        assert.is_true(tonumber(result.stdout) < 0.2, result.stdout .. result.stderr)
    end)
end)


describe("SIGPIPE", function()
    local gone = { peer.receive(1), peer.reset() }
    local small, large = "('x'):rep(100)", "('x'):rep(5000000)"

    -- Whoever started the specs may have it ignored.
    local DEADLY = [[
        local ffi = require("ffi")
        ffi.cdef("void (*signal(int number, void (*handler)(int)))(int);")
        ffi.C.signal(13, nil)
    ]]
    local STILL_DEADLY = [[
        local status = io.open("/proc/self/status"):read("*a")
        for _, set in ipairs({ "SigIgn", "SigCgt", "SigBlk" }) do
            -- Signal 13 is the lowest bit of the fourth digit.
            local digit = tonumber(status:match(set .. ":%s+%x*(%x)%x%x%x\n"), 16)
            assert(digit % 2 == 0, set)
        end
        print("alive")
    ]]

    local function stubborn(destination, body)
        return DEADLY .. [[
            for _ = 1, 5 do
                local httpc = http.new()
                assert(httpc:connect(]] .. destination .. [[))
                local body = ]] .. body .. [[

                local failed
                for _ = 1, 50 do
                    local ok, err = httpc:send_request({ method = "POST", path = "/",
                        headers = { ["Content-Length"] = #body }, body = body })
                    if not ok then
                        failed = err
                        break
                    end
                    os.execute("sleep 0.002")
                end
                if not failed then
                    local res, err = httpc:read_response({})
                    failed = not res and err
                end
                print(failed and "failed" or "sent to nobody")
                httpc:close()
            end
        ]] .. STILL_DEADLY
    end

    local function survives(server_options, body)
        server_options.script = gone
        local server_gone = peer.start(server_options)
        local destination = server_gone.path
            and '{ host = "unix:' .. server_gone.path .. '" }'
            or '{ scheme = "http", host = "127.0.0.1", port = ' .. server_gone.port .. ' }'
        if server_options.tls then
            destination = 'identified{ scheme = "https", host = "localhost", port = '
                .. server_gone.port .. ' }'
        end
        local result = run(stubborn(destination, body))
        server_gone:stop()
        assert.same({ code = 0, stdout = ("failed\n"):rep(5) .. "alive\n", stderr = "" },
                    result)
    end

    it("does not end a program whose server has closed, on TCP", function()
        survives({}, small)
        survives({}, large)
    end)

    it("does not end a program whose server has closed, on a unix socket", function()
        survives({ socket = true }, small)
        survives({ socket = true }, large)
    end)

    it("does not end a program whose server has closed, with TLS", function()
        survives({ tls = {} }, small)
        survives({ tls = {} }, large)
    end)

    it("does not end a program that uses a kept connection which the server has closed", function()
        local answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        local server_once = peer.start({ tls = {}, script = {
            peer.receive_until("\r\n\r\n"), peer.send(answer), peer.close() } })
        local result = run(DEADLY .. [[
            for _ = 1, 5 do
                print(get("/"))
                os.execute("sleep 0.02")
                -- One that is held, not idle in the pool.
                local httpc = http.new()
                assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                                 port = ${up} }))
                assert(httpc:request({ path = "/" })):read_body()
                os.execute("sleep 0.02")
                for _ = 1, 3 do
                    httpc:send_request({ method = "POST", path = "/", body = ("x"):rep(100) })
                end
                httpc:close()
            end
        ]] .. STILL_DEADLY, { up = server_once.port })
        server_once:stop()
        assert.same({ code = 0, stdout = ("ok\n"):rep(5) .. "alive\n", stderr = "" }, result)
    end)
end)
