local fs = require("spec.support.fs")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local prelude = require("spec.support.prelude")


local server, vars

local TOOLS = prelude .. [[
    -- Where the wake socket of the dispatcher is, or was when it was connected.
    local function wake_path()
        local pattern = "(/[^%s]*)/resty%-mtls%-" .. ngx.worker.pid() .. "%-%d+/wake"
        return io.open("/proc/net/unix"):read("*a"):match(pattern)
    end

    -- Gets that many answers at a time, all different, and returns how many were right.
    local function answers(count, path)
        local threads, good = {}, 0
        for i = 1, count do
            threads[i] = ngx.thread.spawn(get, (path or "/echo?") .. "id=" .. i)
        end
        for i = 1, count do
            local _, body, err = ngx.thread.wait(threads[i])
            if body and (body:match("uri: %S+id=(%d+)\n") == tostring(i) or body == "slow") then
                good = good + 1
            else
                print(body, err)
            end
        end
        return good
    end

    local function open_fds()
        local count = 0
        for _ in require("lfs").dir("/proc/" .. ngx.worker.pid() .. "/fd") do
            count = count + 1
        end
        return count
    end
]]

-- The worker, which is not root, cannot enter the directories that it makes: there is nowhere to
-- put a unix socket.
local NO_DIRECTORY = [[
    local ffi = require("ffi")
    ffi.cdef("unsigned int umask(unsigned int mask);")
    ffi.C.umask(511)
]]

-- Takes the only timer there may be, for longer than the spec runs.
local HOGS = {
    lua_max_running_timers = [[
        assert(ngx.timer.at(0, function(premature)
            while not ngx.worker.exiting() and not premature do
                ngx.sleep(0.01)
            end
        end))
        assert(wait_until(function() return ngx.timer.running_count() == 1 end))
    ]],
    lua_max_pending_timers = [[
        assert(ngx.timer.at(3600, function() end))
        assert(not ngx.timer.at(0, function() end))
    ]],
}


setup(function()
    server = nginx.upstream()
    vars = { up = server.port }
end)

teardown(function() server:stop() end)


-- Starts a gateway for one spec, which may not log anything of ours above notice.
local function with_gateway(opts, check)
    opts.vars = vars
    -- It makes a global variable, which nginx warns of outside of init.
    opts.init = "require('lfs')"
    local gateway = nginx.gateway(opts)
    local worker = gateway:worker_pids()[1]
    finally(function() gateway.process:kill() end)
    check(function(chunk) return gateway:run(TOOLS .. chunk, { vars = vars }) end)
    gateway:stop()
    for _, level in ipairs({ "warn", "error", "crit", "alert", "emerg" }) do
        for line in gateway:error_log():gmatch("[^\n]*%[" .. level .. "%][^\n]*") do
            -- That is nginx's own word on its limit.
            assert.is_truthy(line:find("lua_max_running_timers are not enough", 1, true), line)
        end
    end

    local tmpdir = opts.env and opts.env.TMPDIR
    for _, dir in ipairs({ "/tmp", "/dev/shm", gateway.dir, tmpdir }) do
        if dir and fs.exists(dir) then
            for name in lfs.dir(dir) do
                assert.is_nil(name:find("^resty%-mtls%-" .. worker .. "%-"), dir .. "/" .. name)
            end
        end
    end
end


local WHERE = [[
    local thread = ngx.thread.spawn(get, "/slow?s=0.1")
    assert(wait_until(function() return wake_path() end))
    print(wake_path())
    print(select(2, ngx.thread.wait(thread)))
    print(answers(64))
]]


describe("the wake socket", function()
    it("is made in TMPDIR, and nothing of it stays there", function()
        local dir = fs.temp_dir("tmpdir")
        with_gateway({ env = { TMPDIR = dir } }, function(run)
            for _ = 1, 3 do
                assert.equals(dir .. "\nslow\n64\n", run(WHERE))
                assert.equals("true\n", run([[
                    print(wait_until(function() return ngx.timer.running_count() == 0 end))
                ]]))
            end
        end)
    end)

    it("leaves alone what has the name that it would have", function()
        -- Of another copy of the library, or of a process with the same number in a container.
        local dir = fs.temp_dir("tmpdir")
        with_gateway({ env = { TMPDIR = dir } }, function(run)
            local others = run([[
                local lfs, others = require("lfs"), {}
                local name = os.getenv("TMPDIR") .. "/resty-mtls-" .. ngx.worker.pid() .. "-"
                for i = 0, 9 do
                    others[i] = name .. i
                    assert(lfs.mkdir(others[i]))
                    assert(io.open(others[i] .. "/wake", "w")):close()
                    print(others[i])
                end
            ]])
            assert.equals(dir .. "\nslow\n64\n", run(WHERE))
            for other in others:gmatch("[^\n]+") do
                assert.is_true(os.remove(other .. "/wake"))
                assert.is_true(os.remove(other))
            end
        end)
    end)

    it("is made elsewhere if TMPDIR cannot be written to", function()
        with_gateway({ env = { TMPDIR = "/proc/none" } }, function(run)
            assert.equals("/dev/shm\nslow\n64\n", run(WHERE))
        end)
    end)

    it("is made elsewhere if the path in TMPDIR is too long for a socket", function()
        for _, length in ipairs({ 70, 90 }) do
            local dir = fs.temp_dir("long")
            dir = dir .. "/" .. ("x"):rep(length - #dir - 1)
            lfs.mkdir(dir)
            with_gateway({ env = { TMPDIR = dir } }, function(run)
                -- "/resty-mtls-PID-N/wake" has 21 characters and more.
                local used = length == 70 and dir or "/dev/shm"
                assert.equals(used .. "\nslow\n64\n", run(WHERE))
            end)
        end
    end)

    it("is made without TMPDIR, by workers that run as nobody", function()
        with_gateway({ env = { TMPDIR = false }, user = "nobody nogroup" }, function(run)
            assert.equals("/dev/shm\nslow\n64\n", run(WHERE))
        end)
    end)

    it("is on loopback where there is no directory for it", function()
        local opts = { user = "nobody nogroup", init_worker = NO_DIRECTORY }
        with_gateway(opts, function(run)
            assert.equals("64\n64\nnil\n", run([[
                print(answers(64))
                print(answers(64, "/slow?s=0.05&"))
                print(wake_path())
            ]]))
        end)
    end)

    it("is there again after each pause", function()
        with_gateway({}, function(run)
            assert.equals("20\n", run([[
                local good = 0
                for _ = 1, 20 do
                    good = good + (get("/echo") and 1 or 0)
                    wait_until(function() return ngx.timer.running_count() == 0 end)
                end
                print(good)
            ]]))
        end)
    end)

    it("serves requests that begin while its dispatcher is about to go", function()
        with_gateway({}, function(run)
            assert.equals("60\n", run([[
                local good = 0
                for i = 1, 60 do
                    good = good + (get("/echo") and 1 or 0)
                    -- The dispatcher goes after 50 to 100 ms of idleness.
                    ngx.sleep(0.04 + i / 1000)
                end
                print(good)
            ]]))
        end)
    end)
end)


describe("without a timer for the dispatcher", function()
    for directive, hog in pairs(HOGS) do
        local limits = directive .. " 1;"

        it("(" .. directive .. ") requests are answered", function()
            with_gateway({ http = limits }, function(run)
                assert.equals("64\n20\n", run(hog .. [[
                    print(answers(64))
                    local good = 0
                    for _ = 1, 20 do
                        good = good + (get("/bytes?n=100000") and 1 or 0)
                    end
                    print(good)
                ]]))
            end)
        end)

        it("(" .. directive .. ") requests are answered through loopback too", function()
            with_gateway({ http = limits, user = "nobody nogroup", init_worker = NO_DIRECTORY },
                         function(run)
                assert.equals("64\ntrue\n", run(hog .. [[
                    local started = ngx.now()
                    print(answers(64, "/slow?s=0.3&"))
                    print(ngx.now() - started < 5)
                ]]))
            end)
        end)

        it("(" .. directive .. ") killed light threads leave no sockets", function()
            with_gateway({ http = limits }, function(run)
                assert.matches("^true\t", run(hog .. [[
                    get("/slow?s=0.2", { keepalive = false })
                    local before = open_fds()
                    for _ = 1, 5 do
                        local threads = {}
                        for i = 1, 10 do
                            threads[i] = ngx.thread.spawn(get, "/slow?s=1")
                        end
                        -- Longer than they wait for a dispatcher.
                        ngx.sleep(0.4)
                        for i = 1, 10 do
                            ngx.thread.kill(threads[i])
                        end
                    end
                    print(wait_until(function()
                        collectgarbage()
                        return open_fds() <= before
                    end), before, open_fds())
                ]]))
            end)
        end)
    end
end)


describe("without sockets for the dispatcher", function()
    it("requests are answered all the same", function()
        local gateway = nginx.gateway({ vars = vars })
        finally(function() gateway.process:kill() end)
        assert.equals("8\ntrue\n8\n", gateway:run(TOOLS .. [[
            local tcp = ngx.socket.tcp
            ngx.socket.tcp = function()
                return nil, "worker_connections are not enough"
            end
            local started = ngx.now()
            print(answers(8))
            print(ngx.now() - started < 2)
            ngx.socket.tcp = tcp
            print(answers(8))
        ]], { vars = vars }))
    end)
end)
