-- The metrics of resty.mtls.prometheus: in nginx-lua-prometheus itself where NGINX_LUA_PROMETHEUS
-- names its folder, and in a stand-in that fails on whatever it does not know.
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

-- Registers the metrics in each worker, and leaves what came of it where chunks find it.
local REGISTER = [[
    local prometheus = require("${module}").init("metrics", { prefix = "test_",
                                                              sync_interval = 0.05 })
    local exporter = assert(require("resty.mtls.prometheus").register(prometheus, ${options}))
    package.loaded["spec.registered"] = { prometheus = prometheus, exporter = exporter }
]]

local PRELUDE = [[
    local http = require("resty.mtls.http")
    local registered = require("spec.registered")
    local uri = "https://localhost:${tls}/echo"
    local identity = {
        ssl_trusted_certificate = "${cert.ca.crt}",
        ssl_cert_path = "${cert.client-a.crt}", ssl_key_path = "${cert.client-a.key}",
    }
]]

local SHOW = "return (table.concat(registered.prometheus:metric_data()))"

local places = { { name = "a stand-in", module = "spec.support.prometheus_stand_in" } }
local folder = os.getenv("NGINX_LUA_PROMETHEUS")
if folder then
    places[#places + 1] = { name = "nginx-lua-prometheus", module = "prometheus",
                            lua_path = folder .. "/?.lua;", is_real = true }
end

local upstream

setup(function() upstream = nginx.upstream() end)

teardown(function() upstream:stop() end)


local function start(place, options, workers)
    return nginx.gateway({
        workers = workers, lua_path = place.lua_path, init_worker = REGISTER,
        http = "lua_shared_dict metrics 1m;",
        vars = { module = place.module, options = options },
    })
end


local function run(gateway, code, vars)
    local given = { tls = upstream.port, plain = upstream.ports.plain }
    for name, value in pairs(vars or {}) do
        given[name] = value
    end
    return gateway:run(PRELUDE .. code, { vars = given })
end


-- The value of each metric of ours by its name and labels, and the types by name.
local function parse(text)
    local values, types = {}, {}
    for line in text:gmatch("[^\n]+") do
        local name, value = line:match("^test_(mtls_%S+) (%S+)$")
        if name then
            values[name] = tonumber(value)
        end
        name, value = line:match("^# TYPE test_(mtls_%S+) (%S+)$")
        if name then
            types[name] = value
        end
    end
    return values, types
end


for _, place in ipairs(places) do
    describe("in " .. place.name .. ", metrics", function()
        local gateway

        after_each(function()
            gateway:stop()
            -- The real one logs what it does not like.
            assert.not_matches("%[error%]", gateway:error_log())
        end)

        it("are those of known traffic, and grow by what comes", function()
            gateway = start(place, "{ interval = 0 }")
            local vars = { refused = ports.free() }
            local code = [[
                for _ = 1, 2 do
                    assert(http.new():request_uri(uri, identity))
                end
                assert(not http.new():request_uri(uri))
                assert(not http.new():request_uri("http://127.0.0.1:${refused}/"))
                assert(registered.exporter:collect())
                assert(registered.exporter:collect())
            ]] .. SHOW
            local values, types = parse(run(gateway, code, vars))
            local sent = values.mtls_client_sent_bytes_total
            local received = values.mtls_client_received_bytes_total
            assert.is_true(sent > 100 and received > 2 * 263)
            local expected = {
                mtls_client_requests_total = 2,
                mtls_client_connections_opened_total = 1,
                mtls_client_connections_reused_total = 1,
                ['mtls_client_handshakes_total{kind="full"}'] = 1,
                ['mtls_client_handshake_failures_total{code="server_certificate_untrusted"}'] = 1,
                ['mtls_client_failures_total{code="server_certificate_untrusted"}'] = 1,
                ['mtls_client_failures_total{code="connect_refused"}'] = 1,
                mtls_client_sent_bytes_total = sent,
                mtls_client_received_bytes_total = received,
                ['mtls_client_connections_open{worker="0"}'] = 1,
                ['mtls_client_connections_idle{worker="0"}'] = 1,
                ['mtls_client_requests_in_flight{worker="0"}'] = 0,
                -- That of the identity, and none of the calls without one.
                ['mtls_client_keys_held{worker="0"}'] = 1,
            }
            assert.same(expected, values)
            for name, kind in pairs(types) do
                assert.equals(name:find("_total$") and "counter" or "gauge", kind)
            end
            local page = fs.read(fs.repo .. "/docs/operations.md")
            for name, kind in pairs(types) do
                assert.matches("\n| `" .. name .. "` | " .. kind .. " | ", page, 1, true)
            end
            assert.equals("gauge", types.mtls_client_connections_open)
            assert.equals("counter", types.mtls_client_requests_total)

            values = parse(run(gateway, code, vars))
            assert.equals(4, values.mtls_client_requests_total)
            assert.equals(2, values['mtls_client_failures_total{code="connect_refused"}'])
            assert.is_true(values.mtls_client_sent_bytes_total > sent)
            assert.equals(1, values['mtls_client_connections_open{worker="0"}'])
        end)

        it("have a label for the destination if that is asked for", function()
            gateway = start(place, "{ interval = 0, destinations = true }")
            local values = parse(run(gateway, [[
                assert(http.new():request_uri(uri, identity))
                assert(http.new():request_uri("http://localhost:${plain}/echo"))
                assert(not http.new():request_uri("nonsense"))
                assert(registered.exporter:collect())
            ]] .. SHOW))
            local tls = "https://localhost:" .. upstream.port
            local plain = "http://localhost:" .. upstream.ports.plain
            for labels, count in pairs({
                ['requests_total{destination="' .. tls .. '"}'] = 1,
                ['requests_total{destination="' .. plain .. '"}'] = 1,
                ['failures_total{destination="other",code="bad_argument"}'] = 1,
                ['handshakes_total{destination="' .. tls .. '",kind="full"}'] = 1,
                ['connections_idle{destination="' .. tls .. '",worker="0"}'] = 1,
                ['connections_open{destination="other",worker="0"}'] = 0,
                ['keys_held{worker="0"}'] = 1,
            }) do
                assert.equals(count, values["mtls_client_" .. labels], labels)
            end
        end)

        it("are sums over workers, each of which passes on its own", function()
            gateway = start(place, "{ interval = 0.05 }", 2)
            local seen, total = {}, 0
            process.wait_until("both workers have made requests", function()
                local id = run(gateway, [[
                    assert(http.new():request_uri(uri, identity))
                    return ngx.worker.id()
                ]])
                seen[tonumber(id)] = true
                total = total + 1
                return seen[0] and seen[1]
            end)
            -- Between its counters and its gauges, another worker may show them.
            local values
            process.wait_until("all requests are counted, and both connections", function()
                values = parse(run(gateway, SHOW))
                return values.mtls_client_requests_total == total
                    and values['mtls_client_connections_open{worker="0"}'] == 1
                    and values['mtls_client_connections_open{worker="1"}'] == 1
            end)
            assert.equals(total, values.mtls_client_requests_total)
        end)

        it("may be registered again, which gives the same exporter", function()
            gateway = start(place, "nil")
            assert.equals("true\n", run(gateway, [[
                local again = require("resty.mtls.prometheus").register(registered.prometheus)
                return again == registered.exporter
            ]]))
        end)
    end)
end


describe("resty.mtls.prometheus", function()
    it("passes on what was counted last when a worker exits", function()
        local gateway = start(places[1], "{ interval = 3600 }")
        run(gateway, "assert(http.new():request_uri(uri, identity))")
        gateway:reload()
        process.wait_until("the worker before has passed on its count", function()
            return parse(run(gateway, SHOW)).mtls_client_requests_total == 1
        end)
        gateway:stop()
    end)

    it("refuses what it cannot work with", function()
        assert.equals(("bad_argument\n"):rep(6), nginx.run_lua([[
            local register = require("resty.mtls.prometheus").register
            local prometheus = { counter = print, gauge = print }
            local function fail(...)
                local exporter, _, details = register(...)
                assert(exporter == nil)
                print(details.code)
            end
            fail(nil)
            fail({})
            fail(prometheus, 1)
            fail(prometheus, { interval = "5" })
            fail(prometheus, { interval = -1 })
            fail(prometheus, { prefix = 1 })
        ]]))
    end)

    it("tells if a metric of that name is there already", function()
        local gateway = start(places[1], "{ interval = 0 }")
        assert.equals("nil\tcannot register the metric mtls_client_requests_total: "
            .. "see the error log\n", run(gateway, [[
            local prometheus = setmetatable({}, { __index = registered.prometheus })
            local register = require("resty.mtls.prometheus").register
            local exporter, err = register(prometheus)
            print(exporter, err)
        ]]))
        gateway:stop()
    end)
end)
