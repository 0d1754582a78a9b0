--- The thread behind the library ends, or there is none to be had.
---
--- Whoever has the worker's file descriptors can break its epoll set, and tokio panics then. A
--- plugin can do that: here a chunk puts /dev/null in its place.
local cjson = require("cjson")
local fs = require("spec.support.fs")
local in_flight_server = require("spec.support.in_flight_server")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local process = require("spec.support.process")
local socket = require("socket")

local server, tried = nil, 0


setup(function() server = in_flight_server.start() end)

teardown(function()
    server:stop()
    io.stdout:write("threads ended or refused: ", tried, "\n")
end)


local BREAK = [[
    local ffi = require("ffi")
    ffi.cdef("int open(const char *path, int flags, ...); int dup2(int from, int to);"
             .. "int close(int fd);")

    -- What was open before the first call.
    local kept = package.loaded.kept or { files = in_flight.files() }
    package.loaded.kept = kept

    local function break_epoll()
        local null, count = ffi.C.open("/dev/null", 0), 0
        for fd, file in pairs((in_flight.files())) do
            if file == "anon_inode:[eventpoll]" and kept.files[fd] ~= file then
                assert(ffi.C.dup2(null, fd) == fd)
                count = count + 1
            end
        end
        ffi.C.close(null)
        assert(count > 0, "no epoll set but nginx's")
    end
]]

-- What ends with the thread, and that nothing is left of it. Prints how the calls ended.
local ENDS = in_flight_server.CHUNK .. BREAK .. [[
    for _, target in ipairs(targets) do
        assert(in_flight.echo(target, 0))
    end
    kept.count = kept.count or select(2, in_flight.files())

    local silent = target("silent", ${silent}, 1.1)
    local connecting = ngx.thread.spawn(in_flight.call, silent, {})
    local in_hand = {}
    for i, target in ipairs(targets) do
        in_hand[i] = http.new()
        assert(in_hand[i]:connect(target.options))
    end
    for i = 1, 3 do
        for _, target in ipairs(targets) do
            assert(in_flight.echo(target, i))
        end
    end
    local calls = in_flight.begin(targets, 3)
    print("begun")
    await("go")
    os.remove("${dir}/go")
    break_epoll()
    local counts = calls:wait()
    local _, outcome = ngx.thread.wait(connecting)
    assert(outcome.hint)
    counts["silent: " .. outcome.at .. " " .. outcome.code .. " " .. outcome.stage] = 1
    for i, target in ipairs(targets) do
        outcome = in_flight.call(target, { path = "/echo?id=1" }, in_hand[i])
        counts[target.name .. " in hand: " .. outcome.at .. " " .. outcome.code] = 1
    end
    local answers = {}
    for i = 1, 20 do
        for _, target in ipairs(targets) do
            local answered = assert(in_flight.echo(target, i))
            answers[answered] = (answers[answered] or 0) + 1
        end
    end
    assert_settled(kept.count)
    print(cjson.encode({ counts = counts, answers = answers }))
]]


local function expected_counts()
    local counts = { ["silent: connect internal connect"] = 1,
                     ["h1 in hand: request internal"] = 1,
                     ["h2 in hand: request internal"] = 1 }
    for _, version in ipairs({ "h1", "h2" }) do
        counts[version .. " head: request internal response"] = 3
        counts[version .. " body: body internal body"] = 3
        counts[version .. " upload: request internal response"] = 3
    end
    return counts
end


describe("the thread of the runtime ends by a panic", function()
    it("and calls in flight fail, later ones work, and nothing else is disturbed", function()
        local silent = assert(socket.bind("127.0.0.1", 0))
        finally(function() silent:close() end)
        local gateway = nginx.gateway({ log_level = "warn" })
        finally(function() gateway.process:kill() end)
        local worker = gateway:worker_pids()[1]
        local _, silent_port = silent:getsockname()
        local vars = server:vars_and({ silent = silent_port })

        for round = 1, 5 do
            local run = gateway:begin(ENDS, { vars = vars })
            server:await(18 * round)
            gateway:say("go")
            local seen = cjson.decode(run:wait(40):match("\n(.*)$"))
            assert.same(expected_counts(), seen.counts)
            assert.same({ new = 2, reused = 38 }, seen.answers)
            assert.equals("ok", gateway:get("/ok").body)
            tried = tried + 1
        end
        assert.same({ worker }, gateway:worker_pids())
        gateway:stop()
        local log = gateway:error_log()
        assert.matches("%[error%][^\n]*the background thread has ended by a panic", log)
        assert.not_matches("%[alert%]", log)
        assert.not_matches("exited on signal", log)
        assert.not_matches("PRIVATE KEY", log)
    end)
end)


describe("in plain luajit, the thread of the runtime ends by a panic", function()
    it("and the call that waits for it fails, and later ones work", function()
        local output = plain.run_lua(in_flight_server.CHUNK .. BREAK .. [[
            for round = 1, 3 do
                local outcomes = {}
                for _, target in ipairs(targets) do
                    for _ = 1, 2 do
                        assert(in_flight.echo(target, round))
                    end
                    local httpc = http.new()
                    assert(httpc:connect(target.options))
                    break_epoll()
                    local outcome = in_flight.call(target, { path = "/held?id=1" }, httpc)
                    assert(outcome.hint)
                    outcomes[#outcomes + 1] = outcome.at .. " " .. outcome.code
                    local answered, err = in_flight.echo(target, round)
                    assert(answered == "new", err or answered)
                end
                assert(in_flight.settled(), "something is left")
                print(table.concat(outcomes, ", "))
            end
        ]], { vars = server:vars_and({ dir = "/nonexistent" }) })
        tried = tried + 6
        assert.equals(("request internal, request internal\n"):rep(3), output)
    end)
end)


-- A pthread_create that fails while a file exists.
local SHIM = [[
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <errno.h>
    #include <pthread.h>
    #include <stdlib.h>
    #include <unistd.h>

    typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

    int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                       void *(*start)(void *), void *argument)
    {
        create_fn *create = (create_fn *) dlsym(RTLD_NEXT, "pthread_create");
        if (access(getenv("NO_THREADS"), F_OK) == 0) {
            return EAGAIN;
        }
        return create(thread, attributes, start, argument);
    }
]]

local TRY = in_flight_server.CHUNK .. BREAK .. [[
    local plain_target = target("plain", ${control}, 1.1)
    plain_target.options = { scheme = "http", host = "127.0.0.1", port = ${control} }

    local function try(target, path)
        local outcome = in_flight.call(target, { path = path or "/echo?id=1" })
        if outcome.at == "done" then
            return print("done")
        end
        local says = outcome.hint:find("ulimit -u", 1, true) and " says what to do" or ""
        print(outcome.at, outcome.err .. says)
    end

    local function allow_threads(are_allowed)
        if are_allowed then
            os.remove("${switch}")
        else
            io.open("${switch}", "w"):close()
        end
    end
]]


describe("without a thread to be had, calls fail with an error that says so", function()
    local gateway, vars, env

    setup(function()
        local dir = fs.temp_dir("threads")
        process.check({ "cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", dir .. "/shim.so",
                        "-ldl" }, { stdin = SHIM })
        vars = server:vars_and({ switch = dir .. "/none" })
        env = { LD_PRELOAD = dir .. "/shim.so", NO_THREADS = vars.switch }
    end)

    before_each(function()
        gateway = nginx.gateway({ log_level = "warn", env = env })
    end)
    after_each(function()
        gateway:stop()
        assert.not_matches("%[alert%]", gateway:error_log())
    end)

    local function run(chunk)
        return gateway:run(TRY .. chunk, { vars = vars })
    end

    local REFUSED = "connect\tinternal error: cannot start %s thread: Resource temporarily "
        .. "unavailable (os error 11) says what to do\n"

    it("be it the first call of a worker, and it works when there is one", function()
        local output = run([[
            allow_threads(false)
            local before = select(2, in_flight.files())
            for _ = 1, 20 do
                try(targets[1])
            end
            print(select(2, in_flight.files()) - before)
            allow_threads(true)
            try(targets[1])
            try(targets[2])
        ]])
        tried = tried + 20
        assert.equals(REFUSED:format("the runtime"):rep(20) .. "0\ndone\ndone\n", output)
    end)

    it("be it one that needs a helper, and it works when there is one", function()
        local output = run([[
            try(plain_target, "/waiting")
            allow_threads(false)
            try(targets[1])
            plain_target.options.host = "localhost"
            try(plain_target, "/waiting")
            plain_target.options.host = "127.0.0.1"
            try(plain_target, "/waiting")
            allow_threads(true)
            try(targets[1])
            plain_target.options.host = "localhost"
            try(plain_target, "/waiting")
        ]])
        tried = tried + 2
        assert.equals("done\n" .. REFUSED:format("a helper"):rep(2) .. "done\ndone\ndone\n", output)
    end)

    it("be it many that need a helper, and none of them is in the way of the next", function()
        local output = run([[
            try(plain_target, "/waiting")
            allow_threads(false)
            local refused = 0
            for i = 1, 20 do
                plain_target.options.host = "host-" .. i .. ".test"
                refused = refused + (in_flight.call(plain_target, {}).code == "internal" and 1 or 0)
            end
            allow_threads(true)
            plain_target.options.host = "localhost"
            try(plain_target, "/waiting")
            print(refused)
        ]])
        tried = tried + 20
        assert.equals("done\ndone\n20\n", output)
    end)

    it("be it the one that follows a panic, and it works when there is one", function()
        local output = run([[
            try(targets[1])
            local calls = in_flight.begin(targets, 2, { "head", "body" })
            assert(in_flight.wait_until(function() return http.stats().requests == 9 end))
            allow_threads(false)
            break_epoll()
            local counts = calls:wait()
            for _, name in ipairs({ "h1", "h2" }) do
                assert(counts[name .. " head: request internal response"] == 2)
            end
            try(targets[1])
            try(targets[2])
            allow_threads(true)
            try(targets[1])
            try(targets[2])
            -- What sweeps idle connections is there again, too.
            local httpc = http.new()
            assert(httpc:connect(targets[1].options))
            local idle = http.stats().connections_idle
            assert(assert(httpc:request({ path = "/echo?id=1" })):read_body())
            assert(httpc:set_keepalive(100))
            print(in_flight.wait_until(function()
                return http.stats().connections_idle == idle
            end))
        ]])
        tried = tried + 3
        assert.equals("done\n" .. REFUSED:format("the runtime"):rep(2) .. "done\ndone\ntrue\n",
                      output)
    end)
end)
