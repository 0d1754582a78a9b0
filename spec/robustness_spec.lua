local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local prelude = require("spec.support.prelude")


local server

setup(function() server = nginx.upstream() end)

teardown(function() server:stop() end)


local function run(chunk)
    return plain.run(chunk, { vars = { up = server.port, plain = server.ports.plain } })
end


-- Every kind of value that a caller may hand over by mistake.
local WRONG_VALUES = [[
    local raising = setmetatable({}, { __index = function() error("raised by the caller") end })
    local wrong = {
        true, false, -1, 0, 1.5, 2 ^ 40, 2 ^ 53, 1e19, 1e300, 1 / 0, -1 / 0, 0 / 0,
        "", "x", "\0", "\255\254", ("x"):rep(1000), "a b", "1", "a\r\nb",
        {}, { 1, 2 }, { { {} } }, { x = {} }, function() end, function() error("oh") end,
        coroutine.create(print), io.stdout, newproxy(true), raising,
    }
    -- nil is one of them.
    local wrong_count = #wrong + 1
]]

local NATIVE = WRONG_VALUES .. [[
    local native = require("resty.mtls.native")
    local client, mailbox = native.client(), native.mailbox()
    local profile = assert(native.profile({ ssl_verify = false }))
    local things = { client, mailbox, profile }

    local functions, names = {}, {}
    local function collect(prefix, of)
        for name, value in pairs(of) do
            -- With a limit that is too long, this one does what it is there for.
            if type(value) == "function" and name ~= "block" then
                names[#names + 1] = prefix .. name
                functions[prefix .. name] = value
            end
        end
    end
    collect("native.", native)
    collect("client:", debug.getmetatable(client).__index)
    collect("mailbox:", debug.getmetatable(mailbox).__index)
    table.sort(names)
    functions["mailbox:block"] = debug.getmetatable(mailbox).__index.block

    local calls, raised = 0, 0
    local function try(name, ...)
        calls = calls + 1
        local ok, err = pcall(functions[name], ...)
        if not ok then
            raised = raised + 1
            assert(not tostring(err):find("panic"), name .. ": " .. tostring(err))
        end
    end
]]


describe("the native module", function()
    local function assert_survived(result, pattern)
        assert.equals("", result.stderr)
        assert.equals(0, result.code)
        assert.matches(pattern, result.stdout)
    end

    it("survives a call of every function with each wrong value in each place", function()
        assert_survived(run(NATIVE .. [[
            for _, name in ipairs(names) do
                try(name)
                local self = name:find("^client") and client or name:find("^mailbox") and mailbox
                for i = 1, wrong_count do
                    try(name, wrong[i])
                    for place = 1, 8 do
                        local arguments = { mailbox, place, profile, 1, 1, 1, 1, 1 }
                        arguments[place] = wrong[i]
                        if self then
                            try(name, self, unpack(arguments, 1, 8))
                            try(name, self, unpack(arguments, 3, 8))
                        end
                        try(name, unpack(arguments, 1, 8))
                    end
                end
                for _, thing in ipairs(things) do
                    try(name, thing)
                    try(name, thing, thing, thing, thing, thing)
                end
            end
            for i = 1, wrong_count do
                try("mailbox:block", mailbox, wrong[i], 1)
                try("mailbox:block", wrong[i], 1, 1)
            end
            print(#names > 20, calls > 10000, raised > 1000)
        ]]), "^true\ttrue\ttrue\n$")
    end)

    it("survives calls with any number of any arguments", function()
        assert_survived(run(NATIVE .. [[
            math.randomseed(7)
            things[#things + 1] = assert(require("resty.mtls.destination").of({
                scheme = "http", host = "127.0.0.1", port = 1,
            }))
            local function any()
                local dice = math.random(4)
                if dice == 1 then
                    return things[math.random(#things)]
                elseif dice == 2 then
                    return math.random(100)
                end
                return wrong[math.random(wrong_count)]
            end
            for _ = 1, 30000 do
                local name = names[math.random(#names)]
                local self = name:find("^client") and client or name:find("^mailbox") and mailbox
                if self and math.random(20) > 1 then
                    try(name, self, unpack({ any(), any(), any(), any(), any(), any(), any() },
                                           1, math.random(0, 7)))
                else
                    try(name, unpack({ any(), any(), any(), any(), any() }, 1,
                                     math.random(0, 5)))
                end
            end
            print("alive")
        ]]), "^alive\n$")
    end)

    it("survives what its userdata does not expect", function()
        assert_survived(run(NATIVE .. [[
            for _, thing in ipairs(things) do
                assert(getmetatable(thing) == false)
                pcall(function() return thing.no_such_method end)
                pcall(function() thing.field = 1 end)
                pcall(function() return thing() end)
                pcall(function() return thing + 1, #thing, thing .. "" end)
                pcall(setmetatable, thing, {})
                pcall(function() return thing < thing, thing == client end)
            end
            print("alive")
        ]]), "^alive\n$")
    end)
end)


describe("wrong arguments of the API", function()
    -- Runs `attempts`, which calls `try` with a description, a function and its arguments, and
    -- gives what raised an error.
    local function errors_of(attempts)
        local result = run(prelude .. WRONG_VALUES .. [[
            http.set_defaults({ ssl_trusted_certificate = ${pem.ca.crt} })
            local PLAIN = "http://127.0.0.1:${plain}"
            local function connected()
                local httpc = http.new()
                httpc:set_timeout(300)
                assert(httpc:connect({ scheme = "http", host = "127.0.0.1", port = ${plain} }))
                return httpc
            end
            local function try(what, fn, ...)
                local ok, res, err = pcall(fn, ...)
                -- What the caller's own table raises is the caller's.
                if not ok and not tostring(res):find("raised by the caller") then
                    print(what .. ": " .. tostring(res):match("[^\n]*"))
                elseif ok and (res == nil or res == false) and err ~= nil then
                    if type(err) ~= "string" then
                        print(what .. ": the error is a " .. type(err))
                    elseif err:find("panic") or err:find("traceback") then
                        print(what .. ": " .. err)
                    end
                end
                return ok and res
            end
            for i = 1, wrong_count do
                local value = wrong[i]
                local shown = "(" .. tostring(value):sub(1, 20):gsub("[^ -~]", "?") .. ")"
        ]] .. attempts .. [[
            end
            collectgarbage()
            collectgarbage()
            print(stats().operations_in_flight, stats().connections_open
                  - stats().connections_idle)
        ]])
        assert.equals(0, result.code, result.stderr)
        assert.not_matches("panick", result.stderr)
        return result.stdout
    end

    it("of functions are errors, and none is raised", function()
        assert.equals("0\t0\n", errors_of([[
            local httpc = http.new()
            for _, name in ipairs({ "connect", "request", "send_request", "read_response",
                                    "request_uri", "parse_uri", "set_timeout", "set_timeouts",
                                    "set_keepalive", "get_reused_times", "close",
                                    "tcp_only_connect", "ssl_handshake", "tls_handshake",
                                    "connect_proxy", "set_proxy_options", "get_proxy_uri",
                                    "request_pipeline" }) do
                try(name .. shown, httpc[name], httpc, value)
                try(name .. "({}, " .. shown, httpc[name], httpc, {}, value)
            end
            try("set_defaults" .. shown, http.set_defaults, value)
            try("request_uri(uri, " .. shown, httpc.request_uri, httpc, PLAIN .. "/echo", value)
        ]]))
    end)

    it("of connect options are errors, and none is raised", function()
        assert.equals("0\t0\n", errors_of([[
            for _, name in ipairs({ "scheme", "host", "port", "pool", "ssl_verify",
                                    "ssl_server_name", "ssl_cert", "ssl_key", "ssl_cert_path",
                                    "ssl_key_path", "ssl_client_cert", "ssl_client_priv_key",
                                    "ssl_trusted_certificate" }) do
                for _, scheme in ipairs({ "http", "https" }) do
                    local options = { scheme = scheme, host = "127.0.0.1", port = 1 }
                    options[name] = value
                    local httpc = http.new()
                    httpc:set_timeout(300)
                    try(name .. shown, httpc.connect, httpc, options)
                end
            end
        ]]))
    end)

    it("of requests are errors, and none is raised", function()
        assert.equals("0\t0\n", errors_of([[
            for _, name in ipairs({ "method", "path", "query", "headers", "body", "version",
                                    "use_default_user_agent", "retry_stale", "max_headers",
                                    "max_header_size", "max_body_size" }) do
                local httpc = connected()
                local params = { path = "/echo" }
                params[name] = value
                local res = try("request " .. name .. shown, httpc.request, httpc, params)
                if res then
                    try("read_body " .. name .. shown, res.read_body, res)
                end
                httpc:close()
                httpc = connected()
                if try("send_request " .. name .. shown, httpc.send_request, httpc, params) then
                    try("read_response " .. name .. shown, httpc.read_response, httpc, params)
                end
                httpc:close()
            end
        ]]))
    end)

    it("inside of the tables of a request are errors, and none is raised", function()
        assert.equals("0\t0\n", errors_of([[
            local tables = {
                { headers = { X = value } }, { headers = { X = { value } } },
                { query = { x = value } }, { query = { x = { value } } },
                { method = "POST", body = { value } },
                { method = "POST", body = function() return value end,
                  headers = { ["Content-Length"] = 1 } },
                { method = "POST", body = function() return nil, tostring(value) end,
                  headers = { ["Content-Length"] = 1 } },
            }
            if value ~= nil and value == value then
                tables[#tables + 1] = { headers = { [value] = "1" } }
                tables[#tables + 1] = { query = { [value] = "1" } }
            end
            for number, params in ipairs(tables) do
                -- A body function that raises an error, or never ends, is the caller's.
                if not (number == 6 and value) then
                    local httpc = connected()
                    try("table " .. number .. shown, httpc.request, httpc, params)
                    httpc:close()
                end
            end
        ]]))
    end)

    it("of responses and connections are errors, and none is raised", function()
        assert.equals("0\t0\n", errors_of([[
            local httpc = connected()
            local res = assert(httpc:request({ path = "/bytes?n=100000" }))
            try("body_reader" .. shown, res.body_reader, value)
            try("body_reader" .. shown, res.body_reader, value)
            httpc:close()
            httpc = connected()
            try("set_keepalive" .. shown, httpc.set_keepalive, httpc, value)
            httpc:close()
            httpc = connected()
            try("set_keepalive(1, " .. shown, httpc.set_keepalive, httpc, 1, value)
            httpc:close()
            for _, name in ipairs({ "keepalive", "keepalive_timeout", "keepalive_pool" }) do
                httpc = http.new()
                try(name .. shown, httpc.request_uri, httpc, PLAIN .. "/echo", { [name] = value })
                httpc:close()
            end
        ]]))
    end)

    it("that use the client they are given to are survived", function()
        assert.equals("0\t0\n", errors_of([[
            if i == 1 then
                for _, name in ipairs({ "path", "query", "headers", "body", "method" }) do
                    local httpc = connected()
                    local params = setmetatable({}, { __index = function(_, asked)
                        if asked == name then
                            httpc:close()
                            httpc:connect({ scheme = "http", host = "127.0.0.1", port = 1 })
                            collectgarbage()
                        end
                    end })
                    pcall(httpc.request, httpc, params)
                    pcall(httpc.send_request, httpc, params)
                    httpc:close()
                    assert(get("/echo"):find("client%-a"))
                end
            end
        ]]))
    end)
end)
