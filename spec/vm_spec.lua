local fs = require("spec.support.fs")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local template = require("spec.support.template")
local upstream = require("spec.support.nginx.upstream")


local server, vars

-- Requires the module in a coroutine, drops that, and fills the memory where it may have been.
local LOADED_IN_COROUTINE = [[
    local loader = coroutine.create(function()
        local http = require("resty.mtls.http")
        http.new():get_reused_times()
        http.stats()
        return true
    end)
    assert(select(2, coroutine.resume(loader)))
    loader = nil
    for _ = 1, 3 do
        collectgarbage()
        collectgarbage()
        for i = 1, 20000 do
            local _ = { i, tostring(i), coroutine.create(function() return i end) }
        end
    end
]] .. prelude

-- Two and three copies of the module, the second without and the third with its native half.
local LOADED_AGAIN = prelude .. [[
    local copies = { http }
    package.loaded["resty.mtls.http"] = nil
    copies[2] = require("resty.mtls.http")
    for name in pairs(package.loaded) do
        if name:find("^resty%.mtls%.") then
            package.loaded[name] = nil
        end
    end
    copies[3] = require("resty.mtls.http")
    assert(copies[1] ~= copies[2] and copies[2] ~= copies[3])
    collectgarbage()
    collectgarbage()
    local uri = "https://localhost:${up}/echo?from="
]]


local function fd_count(pid)
    local count = 0
    for _ in lfs.dir("/proc/" .. pid .. "/fd") do
        count = count + 1
    end
    return count
end


-- Threads by name. Those that wait for name lookups and files end by themselves, in time.
local function threads_of(pid)
    local threads = {}
    for id in lfs.dir("/proc/" .. pid .. "/task") do
        local name = fs.read("/proc/" .. pid .. "/task/" .. id .. "/comm")
        if id:find("^%d+$") and name and name ~= "resty-mtls-wait\n" then
            threads[#threads + 1] = name:sub(1, -2)
        end
    end
    table.sort(threads)
    return threads
end


local function has_alerts(instance)
    local log = instance:error_log()
    for _, level in ipairs({ "error", "crit", "alert", "emerg" }) do
        local line = log:match("[^\n]*%[" .. level .. "%][^\n]*")
        if line and not line:find("lua_code_cache is off", 1, true) then
            return line
        end
    end
    return false
end


setup(function()
    server = nginx.upstream()
    vars = { up = server.port }
end)

teardown(function() server:stop() end)


describe("a module that a coroutine has loaded", function()
    local chunk = LOADED_IN_COROUTINE .. [[
        for _ = 1, 5 do
            print(get("/echo"))
            collectgarbage()
        end
    ]]

    local function subjects(output)
        return select(2, output:gsub("subject: CN=client%-a", ""))
    end

    it("works in nginx when that is collected", function()
        local gateway = nginx.gateway({ vars = vars })
        for _ = 1, 3 do
            assert.equals(5, subjects(gateway:run(chunk, { vars = vars })))
        end
        gateway:stop()
        assert.is_false(has_alerts(gateway))
    end)

    it("works in plain luajit when that is collected", function()
        local result = plain.run(chunk, { vars = vars })
        assert.equals("", result.stderr)
        assert.equals(0, result.code)
        assert.equals(5, subjects(result.stdout))
    end)

    it("works when the request that loaded it is over", function()
        local gateway = nginx.gateway({ vars = vars })
        gateway:run("require('resty.mtls.http')")
        for _ = 1, 20 do
            gateway:run("collectgarbage() for i = 1, 1000 do local _ = { tostring(i) } end")
        end
        assert.equals(5, subjects(gateway:run(prelude .. [[
            for _ = 1, 5 do
                print(get("/echo"))
            end
        ]], { vars = vars })))
        gateway:stop()
    end)
end)


describe("a module that is loaded again", function()
    it("works in nginx in all its copies at the same time", function()
        local gateway = nginx.gateway({ vars = vars })
        for round = 1, 3 do
            assert.equals("60\n", gateway:run(LOADED_AGAIN .. [[
                local threads = {}
                for i = 1, 60 do
                    threads[i] = ngx.thread.spawn(function()
                        local httpc = copies[i % 3 + 1].new()
                        local res = assert(httpc:request_uri(uri .. i, identified()))
                        return tonumber(res.body:match("uri: /echo%?from=(%d+)")) == i
                    end)
                end
                local good = 0
                for i = 1, 60 do
                    local ok, same = ngx.thread.wait(threads[i])
                    good = good + (ok and same and 1 or 0)
                end
                print(good)
            ]], { vars = vars }), "round " .. round)
        end
        gateway:stop()
        assert.is_false(has_alerts(gateway))
    end)

    it("works in plain luajit in all its copies", function()
        local result = plain.run(LOADED_AGAIN .. [[
            for i = 1, 9 do
                local httpc = copies[i % 3 + 1].new()
                local res = assert(httpc:request_uri(uri .. i, identified()))
                print(res.body:match("uri: /echo%?from=(%d+)"))
            end
        ]], { vars = vars })
        assert.same({ code = 0, stdout = "1\n2\n3\n4\n5\n6\n7\n8\n9\n", stderr = "" }, result)
    end)

    it("shares connections and counters among its copies", function()
        assert.equals("6\t1\t5\n", plain.run_lua(LOADED_AGAIN .. [[
            for i = 1, 6 do
                assert(copies[i % 3 + 1].new():request_uri(uri .. i, identified()))
            end
            local counters = copies[3].stats()
            print(counters.requests, counters.connections_opened, counters.connections_reused)
        ]], { vars = vars }))
    end)
end)


describe("with lua_code_cache off", function()
    local gateway

    setup(function()
        gateway = nginx.gateway({ code_cache = "off", vars = vars, server = [[
            location = /call {
                content_by_lua_file ${dir}/call.lua;
            }
            location = /stats {
                content_by_lua_block {
                    local stats = require("resty.mtls.http").stats()
                    ngx.print(stats.operations_in_flight, " ", stats.connections_open)
                }
            }
        ]] })
        -- An address, since names are looked up in threads that stay for a while.
        fs.write(gateway.dir .. "/call.lua", template.expand(prelude .. [[
            local uri = "https://127.0.0.1:${up}/echo?id=" .. ngx.var.arg_id
            local options = identified{ ssl_server_name = "localhost",
                                        keepalive = ngx.var.arg_keep == "yes" }
            local res, err = http.new():request_uri(uri, options)
            ngx.print(res and res.body or err)
        ]], vars))
    end)

    teardown(function() gateway:stop() end)

    local function call(first, last, keep)
        local exchanges = {}
        for id = first, last do
            exchanges[id] = gateway:send("/call?keep=" .. (keep or "no") .. "&id=" .. id)
        end
        for id = first, last do
            local body = assert(exchanges[id]:receive()).body
            local seen = upstream.parse(body)
            assert.equals("/echo?id=" .. id, seen.uri, body)
            assert.equals("CN=client-a,O=Example", seen.subject)
        end
    end

    it("200 requests are answered and leave neither sockets nor threads", function()
        local worker = gateway:worker_pids()[1]
        local before = fd_count(worker)
        call(1, 10)
        local fds
        process.wait_until("nothing is in flight", function()
            fds = fd_count(worker)
            return gateway:get("/stats").body == "0 0" and fd_count(worker) == fds
                and fds <= before + 10
        end)
        for id = 11, 110 do
            call(id, id)
        end
        for id = 111, 210, 10 do
            call(id, id + 9)
        end
        process.wait_until("nothing is in flight", function()
            return gateway:get("/stats").body == "0 0"
        end)
        process.wait_until("the sockets are closed: " .. fds, function()
            return fd_count(worker) <= fds
        end)
        assert.same({ "nginx", "resty-mtls" }, threads_of(worker))
        assert.is_false(has_alerts(gateway))
    end)

    it("connections are kept for the Lua VMs that follow", function()
        for id = 1, 20 do
            call(id, id, "yes")
        end
        local before = gateway:get("/stats").body
        assert.equals("0 1", before)
    end)
end)
