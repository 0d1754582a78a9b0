--- The plugin mtls-callout, with stand-ins for the parts of APISIX around it.
local apisix = require("spec.support.apisix.gateway")
local cjson = require("cjson")
local plain = require("spec.support.plain")
local ports = require("spec.support.ports")
local url = require("socket.url")

local ROUTES = [[
    local uri = "https://localhost:${service}/ask"
    local function add(name, conf, identity)
        conf.uri = conf.uri or uri
        conf.headers = conf.headers or { ["X-Want"] = "$http_x_want" }
        conf.tls = tls_of(identity[1], identity[2])
        phases.add(name, "mtls-callout", conf)
    end
    add("plain", { headers = {} }, a)
    add("other", { headers = {} }, b)
    add("templates", {
        uri = uri .. "/of/$arg_user/$none?q=$arg_q&m=$request_method&plain=1", method = "PUT",
        headers = { ["X-Path"] = "at ${dollar}{uri}", ["X-Risk"] = "$http_x_risk" },
        body = "user $arg_user",
    }, a)
    add("json", {
        body = { user = "$arg_user", ["$k"] = "",
                 deep = { list = { "$request_method", 1, true } } },
    }, a)
    add("typed", { body = { a = 1 }, headers = { ["content-type"] = "text/x-json" } }, a)
    add("answer", {
        set_headers = { ["X-Status"] = "status", ["X-Got"] = "header.X-User", ["X-Body"] = "body",
                        ["X-None"] = "header.X-None" },
    }, a)
    add("fields", {
        set_headers = { ["X-Score"] = "body.score", ["X-Name"] = "body.user.name",
                        ["X-Ok"] = "body.ok", ["X-Tags"] = "body.tags", ["X-Null"] = "body.null",
                        ["X-Deep"] = "body.score.deeper", ["X-Line"] = "body.line",
                        ["X-Id"] = "body.id" },
        set_vars = { risk = "body.score" },
    }, a)
    add("known", { success_statuses = { 200, 404 }, set_headers = { ["X-Status"] = "status" } }, a)

    local down = "https://localhost:${down}/ask"
    add("closed", { uri = down, set_headers = { ["X-Status"] = "status" } }, a)
    add("closed_418", { uri = down, status_on_error = 418 }, a)
    add("open", { uri = down, allow_degradation = true, set_headers = { ["X-Status"] = "status" },
                  set_vars = { risk = "status" } }, a)
    add("guarded", { uri = uri .. "/of/$arg_user", headers = { ["X-Team"] = "$arg_team" },
                     allow_degradation = true }, a)
    add("slow", { uri = "https://localhost:${service}/slow", timeout = 100 }, a)

    add("log", { phase = "log", body = { uri = "$request_uri", status = "$status" } }, a)
    add("log_down", { phase = "log", uri = down }, a)
]]

local gateway


setup(function()
    gateway = apisix.start({ routes = ROUTES, vars = { down = ports.free(), dollar = "$" } })
end)

teardown(function() gateway:stop() end)


-- The request that the service got, which has to be the only one.
local function asked(path, opts)
    local before = #gateway:seen()
    local response = gateway:ask(path, opts)
    local requests = gateway:seen()
    assert.equals(before + 1, #requests, response.body)
    return requests[#requests], response
end


-- What the server behind got, when the service gives such an answer.
local function told_of(route, answer, opts)
    opts = opts or {}
    opts.headers = opts.headers or {}
    opts.headers["X-Want"] = answer
    local response = gateway:ask("/" .. route, opts)
    return response.told, response
end


local function assert_logged(pattern)
    assert.is_string(gateway.nginx:wait_for_log(pattern))
end


describe("mtls-callout calls", function()
    it("with the client certificate, and nothing of the client's", function()
        local request, response = asked("/plain/x?y=1", { headers = { Cookie = "c=1" } })
        assert.equals(200, response.status)
        assert.same({ "GET", "/ask", "CN=client-a,O=Example" },
                    { request.method, request.uri, request.subject })
        request.headers["user-agent"], request.headers.host = nil, nil
        assert.same({}, request.headers)
    end)

    it("with variables in path, query, headers and body", function()
        local request = asked("/templates?user=al&q=1", { headers = { ["X-Risk"] = "high" } })
        assert.equals("PUT", request.method)
        assert.equals("/ask/of/al/?q=1&m=GET&plain=1", request.uri)
        assert.equals("at /templates", request.headers["x-path"])
        assert.equals("high", request.headers["x-risk"])
        assert.equals("user al", request.body)
        assert.is_nil(request.headers["content-type"])
    end)

    it("with variables that cannot become another part of the URI", function()
        local request = asked("/templates?user=../a%3Fb%23c&q=1%26m%3D2%20")
        assert.equals("/ask/of/..%2Fa%3Fb%23c/?q=1%26m%3D2%20&m=GET&plain=1", request.uri)
    end)

    it("nobody if a variable leads to another path", function()
        local before = #gateway:seen()
        for _, user in ipairs({ "..", ".", "%2e%2e", "" }) do
            local expected = user == "" and 200 or 503
            assert.equals(expected, gateway:ask("/templates?user=" .. user).status)
        end
        assert.equals(before + 1, #gateway:seen())
        assert_logged("mtls%-callout: a variable in uri is a dot segment")
    end)

    it("with variables that cannot become another part of a JSON document", function()
        local request = asked("/json?user=a%22,%22admin%22:%22b")
        assert.equals("POST", request.method)
        assert.equals("application/json", request.headers["content-type"])
        local document = cjson.decode(request.body)
        assert.is_nil(document.admin)
        assert.is_string(document.user:match('^a.*b$'))
        assert.same({ "GET", 1, true }, document.deep.list)
        assert.equals("", document["$k"])
    end)

    it("with the Content-Type that is configured", function()
        assert.equals("text/x-json", asked("/typed").headers["content-type"])
    end)

    it("on connections of one certificate each", function()
        local owners = {}
        for _ = 1, 3 do
            for route, who in pairs({ plain = "a", other = "b" }) do
                local request = asked("/" .. route)
                assert.equals("CN=client-" .. who .. ",O=Example", request.subject)
                assert.is_true((owners[request.connection] or route) == route)
                owners[request.connection] = route
            end
        end
    end)
end)


describe("mtls-callout sets", function()
    it("headers from status, headers and body of the answer, and removes the client's", function()
        local told = told_of("answer", "status=201&X-User=alice&body=yes%0A", {
            headers = { ["X-None"] = "mine", ["X-Got"] = "mine", ["X-Other"] = "mine" },
        })
        assert.same({ "201", "alice", "yes", "mine" }, {
            told.headers["x-status"], told.headers["x-got"], told.headers["x-body"],
            told.headers["x-other"],
        })
        assert.is_nil(told.headers["x-none"])
    end)

    it("a header of several values", function()
        assert.equals("one, two",
                      told_of("answer", "X-User=one&X-User=two&body=b").headers["x-got"])
    end)

    it("headers and variables from fields of a JSON document", function()
        local body = url.escape('{"score":0.5,"user":{"name":"al"},"ok":false,"tags":["a"],'
            .. '"null":null,"line":"a\\r\\nX-Evil: 1","id":1234567890123456}')
        local told = told_of("fields", "body=" .. body, { headers = { ["X-Null"] = "mine" } })
        local headers = told.headers
        assert.same({ "0.5", "al", "false", '["a"]', "1234567890123456" }, {
            headers["x-score"], headers["x-name"], headers["x-ok"], headers["x-tags"],
            headers["x-id"],
        })
        assert.is_nil(headers["x-null"])
        assert.is_nil(headers["x-deep"])
        assert.is_nil(headers["x-line"])
        assert.is_nil(headers["x-evil"])
        assert.equals("0.5", cjson.decode(headers["x-from-plugin"]).risk)
        assert_logged("body%.line has control characters")
    end)

    it("the status that is asked for", function()
        assert.equals("404", told_of("known", "status=404").headers["x-status"])
    end)
end)


describe("mtls-callout, when the call fails,", function()
    it("refuses with status_on_error, and the log says what to do", function()
        assert.equals(503, gateway:ask("/closed").status)
        assert.equals(418, gateway:ask("/closed_418").status)
        assert_logged("%[error%][^\n]*mtls%-callout: connection refused[^\n]*%(connect_refused%)"
            .. "[^\n]*/closed_418")
    end)

    it("refuses after the time-out", function()
        local response = gateway:ask("/slow")
        assert.equals(503, response.status)
        assert_logged("timeout %(read_timeout%)[^\n]*raise timeout")
    end)

    it("lets the request through with allow_degradation, without what the client claims", function()
        local response = gateway:ask("/open", { headers = { ["X-Status"] = "200" } })
        assert.equals(200, response.status)
        assert.is_nil(response.told.headers["x-status"])
        assert.equals("{}", response.told.headers["x-from-plugin"])
    end)

    it("refuses those whose values make it impossible, with allow_degradation too", function()
        local before = #gateway:seen()
        assert.equals(503, gateway:ask("/guarded?user=..").status)
        assert.equals(503, gateway:ask("/guarded?user=a&team=%0A").status)
        assert.equals(before, #gateway:seen())
        assert.equals(200, gateway:ask("/guarded?user=a").status)
    end)

    for answer, phrase in pairs({
        ["status=404"] = "answered with status 404", ["status=302"] = "answered with status 302",
        ["body=no"] = "not a JSON object", ["body=1"] = "not a JSON object",
        ["body="] = "not a JSON object",
    }) do
        it("which it does with an answer of " .. answer .. ", refuses", function()
            local _, response = told_of("fields", answer)
            assert.equals(503, response.status)
            assert_logged("mtls%-callout: [^\n]*" .. phrase)
        end)
    end
end)


describe("mtls-callout in phase log", function()
    it("calls when the request is over, with what nginx knows then", function()
        local before = #gateway:seen()
        assert.equals(200, gateway:ask("/log/1?x=1").status)
        local requests = gateway:wait_until_seen(before + 1)
        local request = requests[#requests]
        assert.equals("CN=client-a,O=Example", request.subject)
        assert.same({ uri = "/log/1?x=1", status = "200" }, cjson.decode(request.body))
    end)

    it("does not hold the request up, and logs a failure", function()
        assert.equals(200, gateway:ask("/log_down").status)
        assert_logged("%[error%][^\n]*mtls%-callout: connection refused")
    end)
end)


describe("the queue of mtls-callout", function()
    local QUEUE = [[
        local queue = require("apisix.plugins.mtls-callout.queue").new(function(call)
            return call.make(call)
        end)
    ]]

    it("makes all calls, a few at a time, though one raises an error", function()
        assert.equals("50\ttrue\t0\n", gateway.nginx:run(QUEUE .. [[
            local made, now, most = 0, 0, 0
            for i = 1, 50 do
                queue:push({ make = function()
                    now = now + 1
                    most = math.max(most, now)
                    ngx.sleep(0.001)
                    now, made = now - 1, made + 1
                    return i ~= 7 or error("the seventh call")
                end })
            end
            for _ = 1, 1000 do
                if queue.running + queue.starting == 0 then
                    break
                end
                ngx.sleep(0.005)
            end
            print(made, most > 1 and most <= 4, queue.running)
        ]]))
        assert_logged("mtls%-callout: [^\n]*the seventh call")
    end)

    it("has a bound, and logs how many calls it drops", function()
        assert.equals("1000\n", gateway.nginx:run(QUEUE .. [[
            local made, is_open = 0, false
            for _ = 1, 1200 do
                queue:push({ make = function()
                    while not is_open do
                        ngx.sleep(0.001)
                    end
                    made = made + 1
                    return true
                end })
            end
            is_open = true
            for _ = 1, 1000 do
                if queue.running + queue.starting == 0 then
                    break
                end
                ngx.sleep(0.005)
            end
            print(made)
        ]]))
        assert_logged("mtls%-callout: 1 calls were dropped: as many as may are waiting")
        assert_logged("mtls%-callout: 199 calls were dropped: as many as may are waiting")
    end)
end)


describe("a worker that exits", function()
    it("makes the calls that wait", function()
        local leaving = apisix.start({ routes = ROUTES, vars = { down = ports.free(),
                                                                 dollar = "$" } })
        local exchanges = {}
        for i = 1, 30 do
            exchanges[i] = leaving.nginx:send("/log/" .. i)
        end
        for i = 1, 30 do
            assert.equals(200, assert(exchanges[i]:receive()).status)
        end
        leaving.nginx:stop()
        assert.equals(30, #leaving:seen())
        leaving.service:stop()
    end)

    it("gives them up if nobody takes them", function()
        local leaving = apisix.start({ routes = ROUTES, vars = { down = ports.free(),
                                                                 dollar = "$" } })
        leaving.nginx:run([[
            local queue = require("apisix.plugins.mtls-callout.queue").new(function()
                while not ngx.worker.exiting() do
                    ngx.sleep(0.005)
                end
                return nil
            end)
            for _ = 1, 100 do
                queue:push({})
            end
        ]])
        assert.is_true(leaving.nginx:stop() < 5)
        assert.matches("9%d calls were dropped: the worker exits", leaving.nginx:error_log())
        leaving.service:stop()
    end)
end)


describe("the schema of mtls-callout", function()
    local function check(more)
        return gateway.nginx:run([[
            local conf = { uri = "https://endpoint.test:8443/x", tls = {} }
            for name, value in pairs({ ]] .. more .. [[ }) do
                conf[name] = value ~= "none" and value or nil
            end
            print(require("apisix.plugins.mtls-callout").check_schema(conf))
        ]])
    end

    for _, more in ipairs({
        "uri = 'https://e.test'", "uri = 'https://e.test?a=$arg_a'", "uri = 'https://[::1]:1/$uri'",
        "phase = 'log', body = { a = 1 }", "body = 'text'", "method = 'DELETE'",
        "set_headers = { A = 'status', B = 'header.X-Y', C = 'body', D = 'body.a.b' }",
        "set_vars = { risk_1 = 'body.risk' }", "success_statuses = { 204 }",
    }) do
        it("takes " .. more, function()
            assert.equals("true\n", check(more))
        end)
    end

    for more, phrase in pairs({
        ["uri = 'none'"] = "uri", ["uri = 'http://e.test/'"] = "uri",
        ["uri = 'https://$host/'"] = "uri", ["uri = 'https://a.$host/'"] = "uri",
        ["uri = 'https://u:p@e.test/'"] = "uri", ["uri = 'https://e.test:$port/'"] = "uri",
        ["uri = 'https://e.test/a b'"] = "uri",
        ["tls = 'none'"] = "tls", ["phase = 'rewrite'"] = "phase", ["method = 'TRACE'"] = "method",
        ["body = 1"] = "body", ["headers = { ['A:'] = 1 }, headers = { A = 1 }"] = "headers",
        ["set_headers = { A = 'reason' }"] = "set_headers",
        ["set_headers = { A = 'body.' }"] = "set_headers",
        ["set_headers = { A = 'header.' }"] = "set_headers",
        ["set_vars = { A = 'status' }"] = "set_vars",
        ["success_statuses = {}"] = "success_statuses",
        ["success_statuses = { 99 }"] = "success_statuses",
        ["phase = 'log', set_headers = { A = 'status' }"] = "phase access",
        ["phase = 'log', set_vars = { a = 'status' }"] = "phase access",
    }) do
        it("refuses " .. more, function()
            local answer = check(more)
            assert.matches("^false\t", answer)
            assert.matches(phrase, answer, 1, true)
        end)
    end
end)


describe("a body as a field", function()
    it("is trimmed in no time, whatever blanks are in it", function()
        local output = plain.run_lua([[
            package.loaded["apisix.core"] = { json = {} }
            local fields = require("apisix.plugins.mtls-callout.fields")
            local blanks = (" "):rep(1024 * 1024)
            for _, body in ipairs({ "a" .. blanks .. "b", blanks .. "b", "a" .. blanks, blanks }) do
                local res = { status = 200, headers = {}, body = body }
                print(#assert(fields.of(res, { X = "body" })).X)
            end
        ]])
        assert.equals("1048578\n1\n1\n0\n", output)
    end)
end)


describe("the queue of mtls-callout, where nginx drops its timers without a word,", function()
    it("asks for others after a while", function()
        local output = plain.run_lua([[
            local time, asked = 100, 0
            -- Stands in for ngx: timers that are taken and never begin.
            ngx = {
                now = function() return time end,
                timer = { at = function() asked = asked + 1 return true end },
                worker = { exiting = function() return false end },
            }
            package.loaded["apisix.core"] = { log = {} }
            local calls = require("apisix.plugins.mtls-callout.queue").new(function() end)
            for _ = 1, 10 do calls:push({}) end
            print(asked)
            time = time + 2
            for _ = 1, 10 do calls:push({}) end
            print(asked)
        ]])
        assert.equals("4\n8\n", output)
    end)
end)
