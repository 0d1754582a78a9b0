local fs = require("spec.support.fs")
local groups = require("spec.support.groups")
local nginx = require("spec.support.nginx")
local posix = require("spec.support.posix")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local upstream = require("spec.support.nginx.upstream")


-- Runs a chunk over and over until each of the workers has run it; what it printed, by pid. Each
-- keeps its worker busy for a moment, so that the others come to accept.
local function run_in_workers(gateway, chunk, vars)
    local outputs, seen = {}, 0
    chunk = prelude .. [[
        local started = os.clock()
        while os.clock() - started < 0.005 do end
        print(ngx.worker.pid())
    ]] .. chunk
    process.wait_until("every worker has run the chunk", function()
        local runs = {}
        for i = 1, 6 do
            runs[i] = gateway:begin(chunk, { vars = vars })
        end
        for i = 1, #runs do
            local pid, output = runs[i]:wait():match("^(%d+)\n(.*)$")
            seen = seen + (outputs[pid] and 0 or 1)
            outputs[pid] = outputs[pid] or {}
            table.insert(outputs[pid], output)
        end
        return seen >= gateway.workers
    end)
    return outputs
end


local function each_output(outputs, check)
    for _, of_worker in pairs(outputs) do
        for _, output in ipairs(of_worker) do
            check(output)
        end
    end
end


describe("a module that is loaded in the master", function()
    local server, vars

    setup(function()
        server = nginx.upstream()
        vars = { up = server.port }
    end)

    teardown(function() server:stop() end)

    local function start(init, workers)
        return nginx.gateway({ init = prelude .. init, workers = workers or 2, vars = vars })
    end

    local function gets_answers(gateway)
        each_output(run_in_workers(gateway, "print(get('/echo'))", vars), function(output)
            assert.equals("CN=client-a,O=Example", upstream.parse(output).subject, output)
        end)
    end

    it("works in every worker, and starts no thread in the master", function()
        local gateway = start("print(http._VERSION)")
        gets_answers(gateway)
        assert.matches("Threads:%s+1\n", fs.read("/proc/" .. gateway:pid() .. "/status"))
        gateway:stop()
    end)

    it("works in init_by_lua, then in every worker, and again after a reload", function()
        local gateway = start("print(get('/echo'))")
        for _ = 1, 3 do
            assert.matches("subject: CN=client%-a", gateway:result_of("init"))
            gets_answers(gateway)
            local old = gateway:worker_pids()
            gateway:reload()
            process.wait_until("the old workers are gone", function()
                return not groups.stat(old[1]) and not groups.stat(old[2])
            end)
        end
        gets_answers(gateway)
        gateway:stop()
        assert.not_matches("%[alert%]", gateway:error_log())
        assert.not_matches("%[error%]", gateway:error_log())
    end)

    it("closes connections that init_by_lua would keep", function()
        local gateway = start([[
            local httpc = http.new()
            assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                             port = ${up} }))
            local res = assert(httpc:request({ path = "/echo" }))
            print(res:read_body():match("connection: (%d+)"))
            print(httpc:set_keepalive())
            print(stats().connections_idle, stats().connections_open)
        ]])
        local in_init, rest = gateway:result_of("init"):match("^(%d+)\n(.*)$")
        assert.equals("2\tconnection must be closed\n0\t0\n", rest)

        local outputs = run_in_workers(gateway, "print(get('/echo'))", vars)
        each_output(outputs, function(output)
            assert.not_equals(in_init, upstream.parse(output).connection)
        end)
        gateway:stop()
    end)

    it("has counters of its own in every worker", function()
        local gateway = start("for _ = 1, 5 do get('/echo') end print(stats().requests)")
        assert.equals("5\n", gateway:result_of("init"))
        local outputs = run_in_workers(gateway, "print(stats().requests)", vars)
        each_output(outputs, function(output) assert.equals("0\n", output) end)
        gateway:stop()
    end)

    it("has clients that were made in the master and work in a worker", function()
        local gateway = start("package.loaded.inherited = http.new()")
        local outputs = run_in_workers(gateway, [[
            -- For one light thread alone; there is a copy in each worker.
            local inherited = package.loaded.inherited or http.new()
            package.loaded.inherited = nil
            local uri = "https://localhost:${up}/echo"
            print(assert(inherited:request_uri(uri, identified())).body)
        ]], vars)
        each_output(outputs, function(output)
            assert.equals("CN=client-a,O=Example", upstream.parse(output).subject, output)
        end)
        gateway:stop()
    end)

    it("does not use a connection of the master in a worker", function()
        local gateway = start([[
            local httpc = http.new()
            assert(httpc:connect(identified{ scheme = "https", host = "localhost",
                                             port = ${up} }))
            local res = assert(httpc:request({ path = "/echo" }))
            print(res:read_body():match("connection: (%d+)"))
            package.loaded.inherited = httpc
        ]])
        local in_init = gateway:result_of("init"):match("%d+")
        each_output(run_in_workers(gateway, [[
            local inherited = require("inherited")
            local res, err, details = inherited:request({ path = "/echo" })
            print(res, err, details and details.code)
            print(inherited:get_reused_times())
            print(inherited:close())
            print(get("/echo"))
        ]], vars), function(output)
            assert.matches("^nil\tclosed", output)
            assert.matches("\nnil\tclosed\nnil\tclosed\n", output)
            assert.not_equals(in_init, upstream.parse(output).connection)
        end)
        gateway:stop()
    end)

    it("works in init_worker_by_lua, and in the requests that follow", function()
        local gateway = nginx.gateway({ init_worker = prelude .. "print(get('/echo'))",
                                        vars = vars })
        assert.matches("subject: CN=client%-a", gateway:result_of("init_worker"))
        gets_answers(gateway)
        gateway:stop()
    end)

    it("works in a master that becomes a daemon after init_by_lua", function()
        local gateway = start("print(get('/echo'))")
        gateway:stop()
        os.remove(gateway.dir .. "/result-init")
        local path = gateway.dir .. "/nginx.conf"
        fs.write(path, (fs.read(path):gsub("daemon off;", "daemon on;")))
        process.check({ "nginx", "-p", gateway.dir .. "/", "-c", path,
                        "-e", gateway.dir .. "/error.log" })
        local master = tonumber(process.wait_until("the daemon runs", function()
            return (fs.read(gateway.dir .. "/nginx.pid") or ""):match("%d+")
        end))
        -- A daemon leads a process group, in which its workers are.
        finally(function() posix.kill(-master, "KILL") end)

        assert.matches("subject: CN=client%-a", gateway:result_of("init"))
        gets_answers(gateway)
        -- Now in the daemon, which is a child of the process that the first request was made in.
        posix.kill(master, "HUP")
        assert.matches("subject: CN=client%-a", gateway:result_of("init"))
        gets_answers(gateway)
        posix.kill(master, "QUIT")
        process.wait_until("the daemon has ended", function()
            return not groups.stat(master) or groups.stat(master).state == "Z"
        end)
    end)
end)
