--- Two copies of the library in one process, of different versions, do not disturb each other. The
--- prelude brings a third one.
local copies = require("spec.support.copies")
local fs = require("spec.support.fs")
local groups = require("spec.support.groups")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")

local OTHER = "9.8.7"

local TOOLS = copies.LOADER .. prelude .. [[
    local loaded = load_copies()

    -- How a call of a copy went: whom the server saw.
    local function visit(number, path)
        local uri = "https://localhost:${up}" .. (path or "/echo?from=") .. number
        local httpc = loaded[number].new()
        local res, err = httpc:request_uri(uri, identified())
        if not res then
            return tostring(err)
        end
        return res.body:match("\nsubject: CN=([^,]*).*\nuri: /echo%?from=" .. number) or res.body
    end

    local function engines()
        local count = 0
        for id in require("lfs").dir("/proc/self/task") do
            local file = id:find("^%d+$") and io.open("/proc/self/task/" .. id .. "/comm")
            if file then
                count = count + (file:read("*a") == "resty-mtls\n" and 1 or 0)
                file:close()
            end
        end
        return count
    end

    local function figures(number)
        local stats = loaded[number].stats()
        return stats.requests, stats.connections_opened, stats.connections_reused,
            stats.operations_in_flight
    end
]]

local server, vars, version


setup(function()
    server = nginx.upstream({ server = [[
        location /wait {
            content_by_lua_block {
                ngx.log(ngx.NOTICE, "is waited for")
                ngx.sleep(0.3)
                ngx.print("waited")
            }
        }
    ]] })
    vars = { up = server.port, first = copies.make(), second = copies.make(OTHER) }
    version = require("resty.mtls.http")._VERSION
end)

teardown(function() server:stop() end)


local function assert_clean(gateway)
    for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
        for line in gateway:error_log():gmatch("[^\n]*%[" .. level .. "%][^\n]*") do
            assert.is_truthy(line:find("lua_code_cache is off", 1, true), line)
        end
    end
end


local function with_gateway(opts, check)
    opts.vars = vars
    local gateway = nginx.gateway(opts)
    finally(function() gateway.process:kill() end)
    check(gateway, function(chunk) return gateway:run(TOOLS .. chunk, { vars = vars }) end)
    gateway:stop()
    return gateway
end


describe("two copies in plain luajit", function()
    it("are of their versions, and work with counters and threads of their own", function()
        assert.equals(version .. "\t" .. OTHER .. "\n" .. ("client-a\tclient-a\n"):rep(5)
                      .. "5\t1\t4\t0\n5\t1\t4\t0\n2\t0\n", plain.run_lua(TOOLS .. [[
            print(loaded[1]._VERSION, loaded[2]._VERSION)
            for _ = 1, 5 do
                print(visit(1), visit(2))
            end
            print(figures(1))
            print(figures(2))
            print(engines(), stats().requests)
        ]], { vars = vars }))
    end)

    it("work in a child process as in its parent", function()
        assert.equals("client-a\tclient-a\n"
                      .. "child\tclient-a\tclient-a\t1\t1\t2\n"
                      .. "parent\tclient-a\tclient-a\t2\t2\t2\n0\n", plain.run_lua(TOOLS .. [[
            local ffi = require("ffi")
            ffi.cdef("int fork(void); int waitpid(int, int *, int); void _exit(int);")
            local function both(name)
                print(name, visit(1), visit(2), (figures(1)), (figures(2)), engines())
                io.stdout:flush()
            end
            print(visit(1), visit(2))
            io.stdout:flush()
            local child = ffi.C.fork()
            if child == 0 then
                both("child")
                ffi.C._exit(0)
            end
            local status = ffi.new("int[1]")
            ffi.C.waitpid(child, status, 0)
            both("parent")
            print(status[0])
        ]], { vars = vars }))
    end)

    it("keep what belongs to the other one from doing harm", function()
        local output = plain.run_lua(TOOLS .. [[
            for i = 1, 2 do
                local stranger = loaded[3 - i].new()
                local options = identified{ scheme = "https", host = "localhost", port = ${up} }
                local ok, connected = pcall(loaded[i].connect, stranger, options)
                print(ok and connected)
            end
            print(visit(1), visit(2))
        ]], { vars = vars })
        assert.matches("^%l+\n%l+\nclient%-a\tclient%-a\n$", output)
        assert.not_matches("true", output)
    end)

    it("work each in Lua VMs of its own, also when one of these is closed", function()
        assert.equals(version .. "\tclient-a\n" .. OTHER .. "\tclient-a\n"
                      .. version .. "\tclient-a\n" .. OTHER .. "\tclient-a\n" .. OTHER
                      .. "\tclient-a\n2\n", plain.run_lua(TOOLS .. [[
            local ffi = require("ffi")
            ffi.cdef([=[
                typedef struct lua_State lua_State;
                lua_State *luaL_newstate(void);
                void luaL_openlibs(lua_State *);
                int luaL_loadstring(lua_State *, const char *);
                int lua_pcall(lua_State *, int, int, int);
                const char *lua_tolstring(lua_State *, int, size_t *);
                void lua_settop(lua_State *, int);
                void lua_close(lua_State *);
            ]=])
            local C = ffi.C
            local function call(state, code)
                if C.luaL_loadstring(state, code) ~= 0 or C.lua_pcall(state, 0, 1, 0) ~= 0 then
                    error(ffi.string(C.lua_tolstring(state, -1, nil)))
                end
                local result = ffi.string(C.lua_tolstring(state, -1, nil))
                C.lua_settop(state, 0)
                return result
            end
            local function vm_of(dir)
                local state = C.luaL_newstate()
                C.luaL_openlibs(state)
                call(state, ([=[
                    package.path, package.cpath = %q, %q
                    http = require("resty.mtls.http")
                    return http._VERSION
                ]=]):format(dir .. "/?.lua", dir .. "/?.so"))
                return state
            end
            local options = identified()
            local function call_in(state)
                print(call(state, ([=[
                    local res = assert(http.new():request_uri("https://localhost:${up}/echo", {
                        ssl_trusted_certificate = %q, ssl_cert = %q, ssl_key = %q }))
                    return http._VERSION .. "\t" .. res.body:match("subject: CN=([^,]*)")
                ]=]):format(options.ssl_trusted_certificate, options.ssl_cert, options.ssl_key)))
            end
            local vms = { vm_of("${first}"), vm_of("${second}") }
            for _ = 1, 2 do
                call_in(vms[1])
                call_in(vms[2])
            end
            C.lua_close(vms[1])
            call_in(vms[2])
            C.lua_close(vms[2])
            print(engines())
        ]], { vars = vars }))
    end)
end)


describe("two copies in one worker of nginx", function()
    it("work at the same time, with counters, dispatchers and threads of their own", function()
        assert_clean(with_gateway({}, function(_, run)
            for round = 1, 3 do
                assert.equals("90\t2\t0\n" .. (45 * round) .. "\t0\n" .. (45 * round) .. "\t0\n",
                              run([[
                    local threads, good = {}, 0
                    for i = 1, 90 do
                        threads[i] = ngx.thread.spawn(visit, i % 2 + 1)
                    end
                    for i = 1, 90 do
                        local _, seen = ngx.thread.wait(threads[i])
                        good = good + (seen == "client-a" and 1 or 0)
                    end
                    print(good, engines(), stats().requests)
                    for number = 1, 2 do
                        local requests, _, _, in_flight = figures(number)
                        print(requests, in_flight)
                    end
                ]]))
            end
        end))
    end)

    it("do not lose calls when those of the other one are killed", function()
        assert_clean(with_gateway({}, function(_, run)
            assert.equals("200\ttrue\n", run([[
                local good = 0
                for i = 1, 200 do
                    local number = i % 2 + 1
                    local victim = ngx.thread.spawn(visit, number, "/slow?s=1&from=")
                    local other = ngx.thread.spawn(visit, 3 - number)
                    if i % 3 > 0 then
                        ngx.sleep(0.001 * (i % 5))
                    end
                    ngx.thread.kill(victim)
                    local _, seen = ngx.thread.wait(other)
                    good = good + (seen == "client-a" and 1 or 0)
                end
                print(good, wait_until(function()
                    collectgarbage()
                    return select(4, figures(1)) == 0 and select(4, figures(2)) == 0
                end))
            ]]))
        end))
    end)

    it("both read what ngx.ssl has parsed", function()
        assert_clean(with_gateway({}, function(_, run)
            assert.equals("client-b\nclient-b\nclient-b\n", run([[
                local ssl = require("ngx.ssl")
                local cert = assert(ssl.parse_pem_cert(${pem.client-b.crt}))
                local key = assert(ssl.parse_pem_priv_key(${pem.client-b.key}))
                for _, copy in ipairs({ loaded[1], loaded[2], http }) do
                    local res = assert(copy.new():request_uri("https://localhost:${up}/echo", {
                        ssl_client_cert = cert, ssl_client_priv_key = key,
                        ssl_trusted_certificate = ${pem.ca.crt} }))
                    print(res.body:match("subject: CN=([^,]*)"))
                end
            ]]))
        end))
    end)

    it("have defaults, and say what they have to say, each for itself", function()
        local gateway = with_gateway({}, function(_, run)
            assert.equals("200\tnil\n200\n", run([[
                local uri = "https://localhost:${up}/echo"
                local own = { ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key} }
                assert(loaded[1].set_defaults({ ssl_verify = false }))
                local first = loaded[1].new():request_uri(uri, own)
                local second = loaded[2].new():request_uri(uri, own)
                print(first.status, second)
                own.ssl_verify = false
                print(loaded[2].new():request_uri(uri, own).status)
            ]]))
        end)
        local _, count = gateway:error_log():gsub("ssl_verify is false", "")
        assert.equals(2, count)
    end)

    it("that the master has loaded lose nothing in a reload and at the end", function()
        -- Tells which copy was asked for, so that each answer is known to be for its call.
        local CALL = [[
            location = /call {
                content_by_lua_block {
                    ]] .. TOOLS .. [[
                    ngx.print(visit(tonumber(ngx.var.arg_copy), "/wait?copy="))
                }
            }
        ]]
        local answered = 0
        assert_clean(with_gateway({
            workers = 2, server = CALL, init = TOOLS .. "print(visit(1), visit(2), engines())",
        }, function(gateway)
            assert.equals("client-a\tclient-a\t2\n", gateway:result_of("init"))
            local asked = 0
            local function during(action)
                local calls = {}
                for i = 1, 20 do
                    calls[i] = gateway:send("/call?copy=" .. (i % 2 + 1))
                end
                asked = asked + 20
                process.wait_until("the calls are under way", function()
                    return select(2, server:error_log():gsub("is waited for", "")) >= asked
                end)
                action()
                for i = 1, 20 do
                    assert.equals("waited", assert(calls[i]:receive()).body)
                    answered = answered + 1
                end
            end
            for _ = 1, 3 do
                local old = gateway:worker_pids()
                during(function() gateway:reload() end)
                process.wait_until("the old workers are gone", function()
                    return not groups.stat(old[1]) and not groups.stat(old[2])
                end)
            end
            during(function() gateway:quit() end)
            assert.equals(0, gateway.process:wait())
        end))
        assert.equals(80, answered)
    end)
end)


describe("two copies by turns, with lua_code_cache off", function()
    it("work in Lua VMs that come and go", function()
        local gateway
        assert_clean(with_gateway({ code_cache = "off", server = [[
            location = /call {
                content_by_lua_file ${dir}/call.lua;
            }
        ]] }, function(given)
            gateway = given
            fs.write(gateway.dir .. "/call.lua", require("spec.support.template").expand([[
                local dir = ngx.var.arg_copy == "1" and "${first}" or "${second}"
                package.path = dir .. "/?.lua;" .. package.path
                package.cpath = dir .. "/?.so;" .. package.cpath
            ]] .. prelude .. [[
                local body, err = get("/echo")
                ngx.print(http._VERSION, " ", body and body:match("subject: CN=([^,]*)") or err)
            ]], vars))
            for _ = 1, 4 do
                local calls = {}
                for i = 1, 20 do
                    calls[i] = gateway:send("/call?copy=" .. (i % 2 + 1))
                end
                for i = 1, 20 do
                    assert.equals((i % 2 == 0 and version or OTHER) .. " client-a",
                                  assert(calls[i]:receive()).body)
                end
            end
        end))
    end)
end)
