--- The examples, as their READMEs start them. APISIX itself is not here: its example runs with the
--- stand-ins for it.
local apisix = require("spec.support.apisix.gateway")
local certs = require("spec.support.certs")
local cjson = require("cjson")
local client = require("spec.support.client")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local ports = require("spec.support.ports")
local process = require("spec.support.process")
local yaml = require("lyaml")

local EXAMPLES = fs.repo .. "/examples/"

-- The example for OpenResty, which is also what the one for APISIX asks.
local service = {}


local function example(path)
    return assert(fs.read(EXAMPLES .. path))
end


local function get(path, headers)
    return client.fetch({ port = service.port, path = path, headers = headers })
end


setup(function()
    service.port, service.tls_port = ports.free(), ports.free()
    service.dir = fs.temp_dir("example")
    service.process = process.start({ EXAMPLES .. "openresty/start", service.dir }, {
        env = { PORT = service.port, TLS_PORT = service.tls_port },
    })
    process.wait_until("the example answers", function()
        if not service.process:is_running() then
            error("it did not start:\n" .. service.process:output(), 0)
        end
        return get("/")
    end, 30)
end)

teardown(function() service.process:stop("QUIT") end)


describe("examples/openresty", function()
    it("lets a request pass that the service accepts", function()
        local response = get("/hello", { Authorization = "secret" })
        assert.equals(200, response.status)
        assert.equals("hello, alice\n", response.body)
    end)

    it("refuses one that it does not", function()
        assert.equals(401, get("/hello").status)
        assert.equals(401, get("/hello", { Authorization = "guess" }).status)
    end)

    it("has a service that demands a client certificate", function()
        local response = assert(client.fetch({ port = service.tls_port, path = "/verify",
                                               sni = "localhost" }))
        assert.equals(400, response.status)
        assert.matches("No required SSL certificate", response.body, 1, true)
    end)

    it("keeps its certificates when it is started again", function()
        local path = service.dir .. "/certificates/client.crt"
        local before = assert(fs.read(path))
        process.check({ EXAMPLES .. "certificates", service.dir .. "/certificates" })
        assert.equals(before, fs.read(path))
    end)

    it("makes new certificates in the place of such as expire", function()
        local folder = fs.temp_dir("example")
        process.check({ EXAMPLES .. "certificates", folder })
        fs.write(folder .. "/client.crt", fs.read(certs.path("client-expired.crt")))
        process.check({ EXAMPLES .. "certificates", folder })
        process.check({ "openssl", "verify", "-CAfile", folder .. "/ca.crt",
                        folder .. "/client.crt" })
    end)

    it("says that openssl is missing", function()
        local result = process.run({ "/bin/sh", EXAMPLES .. "certificates",
                                     fs.temp_dir("example") }, { env = { PATH = "/nowhere" } })
        assert.equals(1, result.code)
        assert.matches("openssl is missing", result.stderr, 1, true)
    end)
end)


describe("examples/luajit", function()
    it("makes a request with its certificate", function()
        local result = process.run({ EXAMPLES .. "luajit/start", fs.temp_dir("example") }, {
            env = { PORT = ports.free() },
        })
        assert.equals(0, result.code, result.stderr)
        assert.matches("TLSv1.3\t[%u%d_]+\tsent O=Example, CN=gateway\n200\t%d+ bytes\t",
                       result.stdout)
    end)

    it("starts again, and says that its port is taken", function()
        local folder = fs.temp_dir("example")
        local function start(port)
            return process.run({ EXAMPLES .. "luajit/start", folder }, { env = { PORT = port } })
        end
        assert.equals(0, start(ports.free()).code)
        assert.equals(0, start(ports.free()).code)
        local result = start(service.tls_port)
        assert.equals(1, result.code, result.stdout)
        assert.matches("port " .. service.tls_port .. " is taken", result.stderr, 1, true)
    end)

    it("says what it takes", function()
        local result = process.run({ "luajit", EXAMPLES .. "luajit/get.lua" }, {
            env = { LUA_PATH = fs.repo .. "/lua/?.lua;;",
                    LUA_CPATH = fs.repo .. "/build/lualib/?.so;;" },
        })
        assert.equals(2, result.code)
        assert.matches("usage: ", result.stderr, 1, true)
    end)
end)


describe("examples/apisix", function()
    local config = yaml.load(example("apisix/config.yaml"))
    local rules = yaml.load(example("apisix/apisix.yaml"))
    local lua = EXAMPLES .. "apisix/lua/?.lua"

    it("enables the plugins that its routes have", function()
        local enabled = {}
        for _, name in ipairs(config.plugins) do
            enabled[name] = true
            local path = "apisix.plugins." .. name
            assert.is_string(package.searchpath(path, fs.repo .. "/lua/?.lua;" .. lua))
        end
        for _, route in ipairs(rules.routes) do
            for name in pairs(route.plugins) do
                assert.is_true(enabled[name], name)
            end
        end
    end)

    it("ends its rules as APISIX wants it", function()
        assert.matches("\n#END\n$", example("apisix/apisix.yaml"))
    end)

    it("names a hook as APISIX takes it, which is there", function()
        assert.matches("^[%a._-]+$", config.apisix.lua_module_hook)
        assert.is_string(package.searchpath(config.apisix.lua_module_hook, lua))
    end)

    it("trusts the same CA in the hook and in config.yaml", function()
        assert.matches('"' .. config.apisix.ssl.ssl_trusted_certificate .. '"',
                       example("apisix/lua/gateway_hook.lua"), 1, true)
    end)

    it("has a hook by which the drop-in trusts that CA", function()
        local upstream = nginx.upstream()
        local hook = example("apisix/lua/gateway_hook.lua")
            :gsub(config.apisix.ssl.ssl_trusted_certificate, "${cert.ca.crt}")
        local gateway = nginx.gateway({
            lua_path = fs.repo .. "/dropin/?.lua;" .. lua .. ";",
            init = "require('gateway_hook')\nlocal function hook()\n" .. hook .. "\nend\nhook()",
        })
        gateway:result_of("init")
        assert.equals("200\n", gateway:run([[
            print(require("resty.http").new():request_uri("https://localhost:${port}/echo", {
                ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key},
            }).status)
        ]], { vars = { port = upstream.port } }))
        gateway:stop()
        upstream:stop()
    end)
end)


describe("the routes of examples/apisix", function()
    local gateway

    setup(function()
        local certificates = service.dir .. "/certificates/"
        local lines = {
            "package.path = package.path .. ';" .. EXAMPLES .. "apisix/lua/?.lua'",
            "core.config.local_conf().apisix.ssl.ssl_trusted_certificate = '"
                .. certificates .. "ca.crt'",
        }
        for _, route in ipairs(yaml.load(example("apisix/apisix.yaml")).routes) do
            for name, conf in pairs(route.plugins) do
                conf.uri = conf.uri:gsub(":8443/", ":" .. service.tls_port .. "/")
                lines[#lines + 1] = ("phases.add('%s', '%s', core.json.decode([==[%s]==]))")
                    :format(route.uri:sub(2), name, cjson.encode(conf))
            end
        end
        gateway = apisix.start({
            routes = table.concat(lines, "\n"),
            env = { GATEWAY_CERT = fs.read(certificates .. "client.crt"),
                    GATEWAY_KEY = fs.read(certificates .. "client.key") },
        })
    end)

    teardown(function() gateway:stop() end)

    it("answer as the README says", function()
        local response = gateway:ask("/whoami")
        assert.equals(200, response.status)
        assert.equals("CN=gateway,O=Example\n", response.body)

        assert.equals(403, gateway:ask("/hello").status)
        response = gateway:ask("/hello", { headers = { Authorization = "secret" } })
        assert.equals(200, response.status)
        assert.equals("alice", response.told.headers["x-user"])
    end)
end)


describe("the plugin in docs/apisix.md", function()
    it("answers what the service says", function()
        local code = fs.read(fs.repo .. "/docs/apisix.md"):match("```lua\n(local core.-)```")
        local gateway = apisix.start({ routes = [[
            package.preload["apisix.plugins.mtls-whoami"] = function() ]] .. code .. [[ end
            phases.add("a", "mtls-whoami", { uri = "https://localhost:${service}/ask",
                                             tls = tls_of(a[1], a[2]) })
            phases.add("b", "mtls-whoami", { uri = "https://localhost:1/",
                                             tls = tls_of(a[1], a[2]) })
        ]] })
        assert.equals("CN=client-a,O=Example", gateway:ask("/a").told.subject)
        assert.equals(502, gateway:ask("/b").status)
        gateway:stop()
    end)
end)
