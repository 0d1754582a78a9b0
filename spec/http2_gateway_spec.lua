-- HTTP/2 in a gateway: its processes, its light threads, and who they are.
local frames = require("spec.support.frames")
local groups = require("spec.support.groups")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local prelude = require("spec.support.prelude")
local process = require("spec.support.process")
local upstream_of = require("spec.support.nginx.upstream")

local server, vars

local TOOLS = prelude .. [[
    local function over_http2(path, options)
        options = options or {}
        options.http_version = 2
        return get(path, options)
    end

    local function size_of(path)
        return require("lfs").attributes(path, "size") or 0
    end
]]


setup(function()
    server = nginx.upstream({ listen = "http2", verify = "optional" })
    vars = { up = server.port }
end)

teardown(function() server:stop() end)


describe("a connection of the master", function()
    -- What `init` printed, and what each of the workers printed.
    local function run(init, chunk)
        local gateway = nginx.gateway({ init = TOOLS .. init, workers = 2, vars = vars })
        local outputs, seen = {}, 0
        process.wait_until("both workers have run the chunk", function()
            -- Keeps a worker busy, so that the other one comes to accept.
            local runs = {}
            for i = 1, 4 do
                runs[i] = gateway:begin(TOOLS .. [[
                    local started = os.clock()
                    while os.clock() - started < 0.005 do end
                    print(ngx.worker.pid())
                ]] .. chunk, { vars = vars })
            end
            for i = 1, 4 do
                local pid, output = runs[i]:wait():match("^(%d+)\n(.*)$")
                seen = seen + (outputs[pid] and 0 or 1)
                outputs[pid] = output
            end
            return seen == 2
        end)
        local printed = gateway:result_of("init")
        gateway:stop()
        assert.not_matches("%[alert%]", gateway:error_log())
        return printed, outputs
    end

    local OPEN = [[
        local httpc = http.new()
        assert(httpc:connect(identified{ scheme = "https", host = "localhost", port = ${up},
                                         http_version = 2 }))
        print(httpc:request({ path = "/echo" }):read_body():match("connection: (%d+)"))
    ]]

    it("is closed when init_by_lua has done with it", function()
        for _, ending in ipairs({ "httpc:set_keepalive()", "httpc:close()" }) do
            local printed, outputs = run(OPEN .. ending .. [[
                print(wait_until(function() return stats().connections_open == 0 end))
            ]], "print(over_http2('/echo'))")
            local number, rest = printed:match("^(%d+)\n(.*)$")
            assert.equals("true\n", rest)
            local connections = {}
            for _, output in pairs(outputs) do
                local fields = upstream_of.parse(output)
                assert.equals("CN=client-a,O=Example", fields.subject)
                assert.equals("HTTP/2.0", fields.http)
                assert.not_equals(number, fields.connection)
                assert.is_nil(connections[fields.connection])
                connections[fields.connection] = true
            end
        end
    end)

    it("is of no use to a worker", function()
        local printed, outputs = run(OPEN .. "package.loaded.inherited = httpc", [[
            local inherited = require("inherited")
            print((select(2, inherited:request({ path = "/echo" }))))
            print(over_http2("/echo"))
        ]])
        for _, output in pairs(outputs) do
            assert.matches("^closed\n", output)
            local fields = upstream_of.parse(output)
            assert.equals("CN=client-a,O=Example", fields.subject)
            assert.not_equals(printed:match("^%d+"), fields.connection)
        end
    end)
end)


describe("requests in flight", function()
    local SERVER = [[
        location = /call {
            content_by_lua_block {
                ]] .. TOOLS .. [[
                local body, err = over_http2("/slow?s=" .. ngx.var.arg_s)
                ngx.print(body or err)
            }
        }
    ]]

    for name, ending in pairs({
        reload = function(gateway) gateway:reload() end,
        quit = function(gateway) gateway:quit() end,
    }) do
        it("come to their end before workers do, with " .. name, function()
            local gateway = nginx.gateway({ server = SERVER, vars = vars })
            local pid = gateway:worker_pids()[1]
            local exchanges = {}
            for i = 1, 20 do
                exchanges[i] = gateway:send("/call?s=0.5")
            end
            gateway:run(TOOLS .. [[
                assert(wait_until(function() return stats().requests >= 20 end))
            ]], { vars = vars })
            ending(gateway)
            for i = 1, 20 do
                assert.equals("slow", assert(exchanges[i]:receive()).body)
            end
            process.wait_until("the worker has ended", function() return not groups.stat(pid) end)
            gateway:stop()
            assert.not_matches("%[alert%]", gateway:error_log())
        end)
    end
end)


describe("without a code cache", function()
    it("requests share a connection, although each has a Lua VM of its own", function()
        local gateway = nginx.gateway({ code_cache = "off" })
        local connection
        for i = 1, 5 do
            local fields = upstream_of.parse(gateway:run(TOOLS .. "print(over_http2('/echo'))",
                                                         { vars = vars }))
            connection = connection or fields.connection
            assert.equals(connection, fields.connection)
            assert.equals(tostring(i), fields.connection_requests)
        end
        gateway:stop()
    end)
end)


describe("a light thread that ends while its stream is open", function()
    local gateway

    setup(function()
        gateway = nginx.gateway({ server = [[
            location = /abort {
                lua_check_client_abort on;
                content_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
            }
        ]] })
    end)

    teardown(function() gateway:stop() end)

    -- One who stays, and one whose request is the first on the connection that they share.
    local CLIENTS = TOOLS .. [[
        local options = { scheme = "http", host = "localhost", port = ${port}, http_version = 2 }
        local function client()
            local httpc = http.new()
            httpc:set_timeout(10000)
            assert(httpc:connect(options))
            return httpc
        end
        local function received() return size_of("${peer_dir}/received-1") end
        local function request_first()
            local httpc = client()
            httpc:request({ path = "/first" })
        end
    ]]

    local STAYS = [[
        local res = assert(stays:request({ path = "/second" }))
        print(res:read_body(), stays:get_reused_times(), stays:set_keepalive())
    ]]

    local function server_with_reset()
        return peer.start({ script = {
            peer.send(frames.SETTINGS), frames.await_request(1),
            peer.pause(), peer.receive_until(frames.reset_by_client(1, frames.CANCEL)),
            frames.await_request(3), peer.send(frames.response(3, "whole")),
            peer.receive_to_end(),
        } })
    end

    it("resets it and nothing else: killed", function()
        local other = server_with_reset()
        other:resume()
        assert.equals("whole\t0\t1\n", gateway:run(CLIENTS .. [[
            local stays = client()
            local before = received()
            local thread = ngx.thread.spawn(request_first)
            assert(wait_until(function() return received() > before end))
            assert(ngx.thread.kill(thread))
            thread = nil
            collectgarbage()
            collectgarbage()
        ]] .. STAYS, { vars = { up = 0, port = other.port, peer_dir = other.dir } }))
        assert.equals(1, other:connections())
        other:stop()
    end)

    it("resets it and nothing else: of a client that has gone", function()
        local other = server_with_reset()
        local given = { up = 0, port = other.port, peer_dir = other.dir }
        local run = gateway:begin(CLIENTS .. [[
            package.loaded.stays = client()
            request_first()
        ]], { phase = "../abort", vars = given })
        other:wait_for_event("1 waits")
        run:abort()
        other:resume()
        assert.equals("whole\t0\t1\n", gateway:run(CLIENTS .. [[
            local stays = package.loaded.stays
            package.loaded.stays = nil
            -- What a request that has ended leaves is collected like everything.
            assert(wait_until(function()
                collectgarbage()
                return stats().operations_in_flight == 0
            end))
        ]] .. STAYS, { vars = given }))
        assert.equals(1, other:connections())
        other:stop()
    end)
end)


-- Identity, trust, pool and server name at random, many at a time, all to one address.
local MIX = TOOLS .. [[
    local identities = {
        { name = "CN=client-a,O=Example", cert = ${pem.client-a.crt}, key = ${pem.client-a.key} },
        { name = "CN=client-b,O=Example", cert = ${pem.client-b.crt}, key = ${pem.client-b.key} },
        { name = "CN=client-p384,O=Example", cert = ${pem.client-p384.crt},
          key = ${pem.client-p384.key} },
        { name = "" },
    }
    local trusts = {
        { ca = ${pem.ca.crt} }, { ca = { ${pem.ca.crt}, ${pem.other-ca.crt} } },
        { ca = ${pem.other-ca.crt}, is_wrong = true }, { verify = false },
    }
    local pools = { false, "one", "two" }
    local names = { false, "target.server" }
    local versions = { 2, 2, "auto", 1.1 }

    math.randomseed(${seed})
    local function one_of(list)
        local i = math.random(#list)
        return list[i], i
    end

    -- Which connection was whose.
    local owners, mistakes, good, refused = {}, {}, 0, 0

    local function visit()
        local identity, i = one_of(identities)
        local trust, t = one_of(trusts)
        local pool, p = one_of(pools)
        local name, n = one_of(names)
        local version, v = one_of(versions)
        local httpc = http.new()
        httpc:set_timeout(20000)
        local ok, err, details = httpc:connect({
            scheme = "https", host = "localhost", port = ${up}, http_version = version,
            ssl_cert = identity.cert, ssl_key = identity.key, ssl_verify = trust.verify,
            ssl_trusted_certificate = trust.ca, pool = pool or nil, ssl_server_name = name or nil,
        })
        if not ok then
            if trust.is_wrong and details.code == "server_certificate_untrusted" then
                refused = refused + 1
            else
                mistakes[#mistakes + 1] = tostring(err)
            end
            return
        end
        local res
        res, err = httpc:request({ path = "/echo" })
        local body
        if res then
            body, err = res:read_body()
        end
        if not body then
            mistakes[#mistakes + 1] = tostring(err)
            return
        end
        local owner = table.concat({ i, t, p, n, version }, " ")
        local connection = body:match("connection: (%d+)")
        owners[connection] = owners[connection] or owner
        local is_right = not trust.is_wrong and owners[connection] == owner
            and body:match("subject: ([^\n]*)") == identity.name
            and body:match("server_name: ([^\n]*)") == (name or "localhost")
            and body:match("http: ([^\n]*)") == (version == 1.1 and "HTTP/1.1" or "HTTP/2.0")
        if is_right then
            good = good + 1
        else
            mistakes[#mistakes + 1] = owner .. " got " .. body
        end
        if math.random(4) == 1 then
            httpc:close()
        else
            httpc:set_keepalive()
        end
    end

    local threads = {}
    for i = 1, 40 do
        threads[i] = ngx.thread.spawn(function()
            for _ = 1, 25 do
                visit()
            end
        end)
    end
    for i = 1, #threads do
        assert(ngx.thread.wait(threads[i]))
    end
    print(#mistakes, mistakes[1])
    print(good + refused, good > 500, refused > 100)
]]

describe("a thousand requests of many callers at once", function()
    it("are each made as the one who makes it", function()
        local gateway = nginx.gateway()
        for _, seed in ipairs({ 1, os.time() }) do
            assert.equals("0\tnil\n1000\ttrue\ttrue\n", gateway:run(MIX, {
                vars = { up = server.port, seed = seed }, timeout = 60,
            }), "seed " .. seed)
        end
        gateway:stop()
    end)
end)
