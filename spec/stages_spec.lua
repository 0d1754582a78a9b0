--- Calls that end at each of their stages, in each way that a call can end, leave nothing behind.
---
--- The stages are in support/stages/http1.lua and http2.lua. `work` is the body of a Lua function
--- (httpc, run) that makes the call. It and others are described in support/stages/ways.lua, which
--- ends the calls. `script` is what the server does on each connection; it says "there" when the
--- call is at its stage. `ends` is the time-out of the stage, with code and stage of its error.
--- `told = ""`: a call is there as soon as it waits for an operation.
local frames = require("spec.support.frames")
local full_listener = require("spec.support.full_listener")
local getaddrinfo = require("spec.support.getaddrinfo")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local prelude = require("spec.support.prelude")

local TOOLS = prelude .. [[
    local stages = require("spec.support.stages.ways")
    local port, log = ${port}, ${log}

    local function told()
        local file = assert(io.open(log))
        local text = file:read("*a")
        file:close()
        return select(2, text:gsub("%d there\n", ""))
    end

    local function again(httpc)
        -- It takes what a stage has kept, and leaves nothing.
        local options = identified({ keepalive = false, pool = "kept",
                                     ssl_server_name = "localhost" })
        httpc = httpc or http.new()
        local res, err = httpc:request_uri("https://127.0.0.1:${up}/echo", options)
        return res and res.body, err
    end

    -- Options of connect to the server of the stage; no two runs share a connection.
    local function plain(run, more)
        local options = { scheme = "http", host = "127.0.0.1", port = port, pool = run.pool }
        for name, value in pairs(more or {}) do
            options[name] = value
        end
        return options
    end

    local function tls(run, more)
        local options = plain(run, identified(more))
        options.scheme, options.ssl_server_name = "https", "localhost"
        return options
    end

    local function http2(run, more)
        local options = plain(run, more)
        options.http_version = 2
        return options
    end

    -- Connects, makes a request and reads its body.
    local function call(httpc, run, options, params)
        params = params or {}
        if run.deadline then
            options.deadline = run.deadline
            for name, value in pairs(params) do
                options[name] = value
            end
            return httpc:request_uri(options.scheme .. "://" .. options.host .. ":"
                                     .. options.port .. "/", options)
        end
        local ok, err, details = httpc:connect(options)
        if not ok then
            return nil, err, details
        end
        local res
        res, err, details = httpc:request(params)
        if not res then
            return nil, err, details
        end
        return res:read_body()
    end

    local function no_end()
        return ("x"):rep(1000000)
    end
]]


local upstream, gateway, lookups
local tried, killed = 0, 0


setup(function()
    upstream = nginx.upstream()
    lookups = getaddrinfo.start()
    gateway = nginx.gateway({ env = lookups.env, server = [[
        location = /victim {
            lua_check_client_abort on;
            content_by_lua_block { require("spec.support.stages.ways").victim() }
        }
    ]] })
end)

teardown(function()
    upstream:stop()
    print(("stages: %d combinations of a stage and an end tried, and %d calls killed"):format(
        tried, killed))
end)


local function quoted(text)
    return ("%q"):format(text)
end


local function run(chunk, vars)
    vars.up, vars.lookups = upstream.port, quoted(lookups.log)
    return gateway:run(chunk, { vars = vars, timeout = 60 })
end


local function tells(stage)
    if stage.told == "" then
        return "nil"
    end
    return stage.told and "function(run) " .. stage.told .. " end" or "told"
end


local function chunk_of(stage)
    local function member(name)
        local text = stage[name]
        return text and ("%s = function(run) %s end,"):format(name, text) or ""
    end
    local ends = stage.ends or {}
    return TOOLS .. ([[
        local failure, count = stages.run({
            work = function(httpc, run) %s end,
            %s %s told = %s,
            rests = %s, says_so = %s, deadline = %s, ends = %s, code = %s, stage = %s, get = again,
        })
        print(count, failure)
    ]]):format(stage.work, member("before"), member("after"),
               tells(stage), tostring(stage.rests),
               tostring(stage.says_so), tostring(stage.deadline), ends[1] and quoted(ends[1]),
               ends[2] and quoted(ends[2]), ends[3] and quoted(ends[3]))
end


local function try(stage)
    local server
    if stage.full then
        server = full_listener()
    elseif stage.script or stage.scripts then
        server = peer.start({ script = stage.script, scripts = stage.scripts,
                              tls = stage.tls and {} or nil })
    end
    local is_peer = server and server.process
    local ok, output = pcall(run, chunk_of(stage), {
        port = server and server.port or 1, log = quoted(is_peer and server.process.log or ""),
    })
    if server then
        server:stop()
    end
    if not ok then
        error(output, 0)
    end
    local count, failure = output:match("^(%d+)\t(.*)\n$")
    tried = tried + count
    return failure
end


local function settle()
    assert.equals("nil\n", run("print((require('spec.support.stages.ways').settle()))", {}))
end


describe("a call that ends", function()
    setup(function()
        run(TOOLS .. "assert(again())", { port = 1, log = quoted("") })
        settle()
    end)

    for _, version in ipairs({ "1.1", "2" }) do
        local stages = require("spec.support.stages.http" .. version:sub(1, 1))
        for _, stage in ipairs(stages) do
            it("leaves nothing behind, over HTTP/" .. version .. ": " .. stage.name, function()
                assert.equals("nil", try(stage))
                settle()
            end)
        end
    end
end)


describe("2000 calls that are killed", function()
    -- What was seen is below 1 MB, once there has been a first time for all.
    local FIRST, MANY, BOUND = 1000, 2000, 6

    local KINDS = {
        { name = "waiting for the head, over HTTP/1.1",
          script = { peer.receive_to_end() }, work = "return call(httpc, run, plain(run))" },
        { name = "in a handshake", script = { peer.receive_to_end() },
          work = "return call(httpc, run, tls(run))" },
        { name = "waiting for the head, over HTTP/2",
          script = { peer.send(frames.SETTINGS), peer.receive_to_end() },
          work = "return call(httpc, run, http2(run, { pool = 'shared' }))" },
    }

    for _, kind in ipairs(KINDS) do
        it("take no memory for ever: " .. kind.name, function()
            local server = peer.start({ script = kind.script })
            local grown = tonumber(run(TOOLS .. ([[
                local stage = { work = function(httpc, run) %s end }
                stages.kill_many(stage, %d)
                print(stages.kill_many(stage, %d))
            ]]):format(kind.work, FIRST, MANY), { port = server.port, log = quoted("") }))
            server:stop()
            killed = killed + FIRST + MANY
            print(("%s: %.1f MB more"):format(kind.name, grown))
            assert.is_true(grown < BOUND, grown .. " MB")
            settle()
        end)
    end
end)


describe("nginx", function()
    it("has nothing to say of them but the errors that were raised, and ends", function()
        gateway:stop()
        local lines = {}
        for line in gateway:error_log():gmatch("[^\n]+") do
            local level = line:match("%[(%l+)%]")
            if (level == "error" or level == "crit" or level == "alert" or level == "emerg")
                    and not line:find("raised by the spec", 1, true) then
                lines[#lines + 1] = line
            end
        end
        assert.same({}, lines)
    end)
end)
