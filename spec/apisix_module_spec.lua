--- resty.mtls.apisix, with stand-ins for the parts of APISIX that it uses.
local apisix = require("spec.support.apisix.gateway")
local certs = require("spec.support.certs")
local nginx = require("spec.support.nginx")

-- What chunks begin with.
local PRELUDE = [[
    local core, http = require("apisix.core"), require("resty.mtls.http")
    local mtls = require("resty.mtls.apisix")
    local router, secret = require("apisix.router"), require("apisix.secret")
    local ssl = require("apisix.ssl")
    local cert, key = ${pem.client-a.crt}, ${pem.client-a.key}
    local other_cert, other_key = ${pem.client-b.crt}, ${pem.client-b.key}

    -- Who a server sees with such a `tls`, or why nobody.
    local function seen_with(tls)
        local options, err = mtls.tls_options(tls)
        if not options then
            return err
        end
        local params = { ssl_trusted_certificate = ${pem.ca.crt} }
        for name, value in pairs(options) do
            params[name] = value
        end
        local res
        res, err = http.new():request_uri("https://localhost:${up}/echo", params)
        return res and res.body:match("subject: ([^\n]*)") or err
    end
]]

local A, B = "CN=client-a,O=Example\n", "CN=client-b,O=Example\n"

local server, gateway


setup(function()
    server = nginx.upstream()
    gateway = nginx.gateway({ lua_path = apisix.LUA_PATH, env = {
        MTLS_CERT = certs.read("client-a.crt"):gsub("\n", "\\n"),
        MTLS_KEY = certs.read("client-a.key"):gsub("\n", "\\r\\n"),
        MTLS_EMPTY = "",
    } })
end)

teardown(function()
    gateway:stop()
    server:stop()
end)


local function run(code, opts)
    opts = opts or {}
    opts.vars = opts.vars or {}
    opts.vars.up = server.port
    return gateway:run(PRELUDE .. code, opts)
end


-- A chunk with stand-ins and a library that nothing has been done with.
local function run_alone(code, opts)
    opts = opts or {}
    opts.lua_path = apisix.LUA_PATH
    -- Chunks of init_worker get no variables.
    return nginx.run_lua((PRELUDE:gsub("%${up}", server.port)) .. code:gsub("%${up}", server.port),
        opts)
end


describe("setup", function()
    it("has names resolved as APISIX does", function()
        assert.equals("200\tservice.test\nfailed to parse domain: nowhere.test", run_alone([[
            assert(mtls.setup())
            core.stand_in.hosts["service.test"] = "127.0.0.1"
            local function get(host)
                return http.new():request_uri("https://" .. host .. ":${up}/echo", {
                    ssl_trusted_certificate = ${pem.ca.crt}, ssl_cert = cert, ssl_key = key,
                    ssl_server_name = "localhost" })
            end
            print(get("service.test").status, core.stand_in.resolved[1])
            print((select(2, get("nowhere.test"))))
        ]]):match("^(.-), error: failed to parse domain\n$"))
    end)

    for what, trusted in pairs({
        ["a path"] = '"' .. certs.path("ca.crt") .. '"',
        ["a list of paths"] = '{ "' .. certs.path("other-ca.crt") .. '", "'
            .. certs.path("ca.crt") .. '" }',
    }) do
        it("has servers trusted by config.yaml: " .. what, function()
            assert.equals("200\n", run_alone([[
                core.config.local_conf().apisix.ssl = {
                    ssl_trusted_certificate = ]] .. trusted .. [[,
                }
                assert(mtls.setup())
                print(http.new():request_uri("https://localhost:${up}/echo", {
                    ssl_cert = cert, ssl_key = key }).status)
            ]]))
        end)
    end

    it("has servers trusted by the system, if config.yaml says so", function()
        assert.equals("200\n", run_alone([[
            core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = "system" }
            assert(mtls.setup())
            print(http.new():request_uri("https://localhost:${up}/echo", {
                ssl_cert = cert, ssl_key = key }).status)
        ]], { env = { SSL_CERT_FILE = certs.path("ca.crt") } }))
    end)

    it("leaves trust as it is, if config.yaml says nothing", function()
        assert.equals("200\n", run_alone([[
            assert(http.set_defaults({ ssl_trusted_certificate = ${pem.ca.crt} }))
            assert(mtls.setup())
            print(http.new():request_uri("https://localhost:${up}/echo", {
                ssl_cert = cert, ssl_key = key }).status)
        ]]))
    end)

    it("says that config.yaml names no certificates", function()
        assert.equals("nil\tapisix.ssl.ssl_trusted_certificate in config.yaml: "
            .. "bad 'ssl_trusted_certificate'", run_alone([[
            core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = 1 }
            print(mtls.setup())
        ]]):match("^(.-):[^:]*\n$"))
    end)

    it("does nothing the second time", function()
        assert.equals("true\ttrue\n200\n", run_alone([[
            local trust = { ssl_trusted_certificate = "${cert.ca.crt}" }
            core.config.local_conf().apisix.ssl = trust
            local first = mtls.setup()
            trust.ssl_trusted_certificate = "${cert.other-ca.crt}"
            print(first, mtls.setup())
            print(http.new():request_uri("https://localhost:${up}/echo", {
                ssl_cert = cert, ssl_key = key }).status)
        ]]))
    end)

    for _, phase in ipairs({ "init", "init_worker", "set", "rewrite", "access", "header_filter",
                             "body_filter", "log", "timer" }) do
        it("may be called in phase " .. phase, function()
            assert.equals("true\n", run_alone([[
                core.config.local_conf().apisix.ssl = { ssl_trusted_certificate = "system" }
                print(mtls.setup())
            ]], { phase = phase }))
        end)
    end
end)


describe("tls_schema", function()
    local function check(tls)
        return run("print(core.schema.check(mtls.tls_schema, { " .. tls .. " }))")
    end

    for _, tls in ipairs({
        "", "client_cert = cert, client_key = key", "client_cert_id = 'id-1'", "client_cert_id = 7",
        "client_cert = ('c'):rep(128), client_key = ('k'):rep(64)",
        "client_cert = ('c'):rep(65536), client_key = ('k'):rep(65536)",
        "client_cert = '$secret://vault/1/c', client_key = '$env://KEY'",
        "client_cert = '$ENV://CERT', client_key = '$Env://KEY/sub', passphrase = '$env://P'",
        "client_cert = cert, client_key = key, passphrase = 'p'",
        "ca_cert = '/etc/ssl/ca.pem'", "ca_cert = cert", "ssl_verify = false",
        "server_name = 'a.test'", "server_name = '[::1]'", "server_name = '$env://NAME'",
    }) do
        it("takes " .. tls, function()
            assert.equals("true\n", check(tls))
        end)
    end

    for tls, phrase in pairs({
        ["client_cert = cert"] = "client_key", ["client_key = key"] = "client_cert",
        ["client_cert_id = 1, client_cert = cert, client_key = key"] = "match",
        ["client_cert = ('c'):rep(127), client_key = key"] = "client_cert",
        ["client_cert = ('c'):rep(65537), client_key = key"] = "client_cert",
        ["client_cert = cert, client_key = ('k'):rep(63)"] = "client_key",
        ["client_cert = cert, client_key = ('k'):rep(65537)"] = "client_key",
        ["client_cert = cert, client_key = '$other://x'"] = "client_key",
        ["client_cert_id = ''"] = "client_cert_id", ["client_cert_id = 0"] = "client_cert_id",
        ["client_cert_id = 'a/b'"] = "client_cert_id", ["passphrase = 'p'"] = "client_key",
        ["client_cert = cert, client_key = key, passphrase = ''"] = "passphrase",
        ["ca_cert = ''"] = "ca_cert", ["ssl_verify = 'no'"] = "ssl_verify",
        ["server_name = ''"] = "server_name", ["server_name = key"] = "server_name",
        ["client_crt = cert"] = "client_crt",
    }) do
        it("refuses " .. tls, function()
            local answer = check(tls)
            assert.matches("^false\t", answer)
            assert.matches(phrase, answer, 1, true)
        end)
    end
end)


describe("tls_options", function()
    it("are none without a tls", function()
        assert.equals("nil\n", run("print(next(mtls.tls_options(nil)))"))
    end)

    it("have all that a tls has", function()
        assert.equals("cert key pass ca false name\n", run([[
            local o = mtls.tls_options({ client_cert = "cert", client_key = "key",
                passphrase = "pass", ca_cert = "ca", ssl_verify = false, server_name = "name" })
            print(table.concat({ o.ssl_cert, o.ssl_key, o.ssl_key_password,
                o.ssl_trusted_certificate, tostring(o.ssl_verify), o.ssl_server_name }, " "))
        ]]))
    end)

    it("take PEM", function()
        assert.equals(A, run("print(seen_with({ client_cert = cert, client_key = key }))"))
    end)

    it("take PEM with \\n in place of line ends, and leave other texts alone", function()
        assert.equals(A .. "/etc/ssl\\new.pem\n", run([[
            local function escaped(pem)
                return (pem:gsub("\n", "\\n"))
            end
            print(seen_with({ client_cert = escaped(cert), client_key = escaped(key),
                              ca_cert = escaped(${pem.ca.crt}) }))
            print(mtls.tls_options({ ca_cert = "/etc/ssl\\new.pem" }).ssl_trusted_certificate)
        ]]))
    end)

    it("take an encrypted key with its passphrase", function()
        assert.equals(A, run([[
            print(seen_with({ client_cert = cert, client_key = ${pem.client-a.encrypted.key},
                              passphrase = "correct horse" }))
        ]]))
    end)
end)


describe("tls_options of an SSL object", function()
    it("decrypt its key", function()
        assert.equals(A .. B, run([[
            router.stand_in.ssls["7"] = { type = "client", cert = cert,
                                          key = ssl.stand_in.encrypt(key) }
            router.stand_in.ssls.name = { type = "client", cert = other_cert, key = other_key }
            print(seen_with({ client_cert_id = 7 }))
            print(seen_with({ client_cert_id = "name" }))
        ]]))
    end)

    it("follow it when it changes, and decrypt the key once until then", function()
        assert.equals(A .. "true\t1\n" .. B .. "2\n", run([[
            local tls = { client_cert_id = "turned" }
            router.stand_in.ssls.turned = { type = "client", cert = cert,
                                            key = ssl.stand_in.encrypt(key) }
            ssl.stand_in.decrypted = 0
            print(seen_with(tls))
            print(mtls.tls_options(tls) == mtls.tls_options(tls), ssl.stand_in.decrypted)
            router.stand_in.ssls.turned = { type = "client", cert = other_cert,
                                            key = ssl.stand_in.encrypt(other_key) }
            print(seen_with(tls))
            print(ssl.stand_in.decrypted)
        ]]))
    end)

    it("resolve the references in it", function()
        assert.equals(A, run([[
            secret.stand_in.values["$secret://vault/1/object"] = key
            router.stand_in.ssls.refers = { type = "client", cert = "$env://MTLS_CERT",
                                            key = "$secret://vault/1/object" }
            print(seen_with({ client_cert_id = "refers" }))
        ]]))
    end)

    for what, case in pairs({
        ["is not there"] = { "router.stand_in.ssls.bad = nil", "no SSL object 'bad'" },
        ["is for the gateway's own listeners"] = {
            "router.stand_in.ssls.bad = { type = 'server', cert = cert, key = key }",
            "\"type\": \"client\"",
        },
        ["has a key that cannot be decrypted"] = {
            "router.stand_in.ssls.bad = { type = 'client', cert = cert, key = 'c2VjcmV0' }",
            "data_encryption.keyring",
        },
        ["has a key that nothing can decrypt"] = {
            "ssl.stand_in.has_keyring = false\n"
                .. "router.stand_in.ssls.bad = { type = 'client', cert = cert, key = 'c2VjcmV0' }",
            "data_encryption.keyring",
        },
        ["refers to nothing"] = {
            "router.stand_in.ssls.bad = { type = 'client', cert = cert, key = '$env://MTLS_NONE' }",
            "SSL object 'bad': key refers to $env://MTLS_NONE, which has no value",
        },
    }) do
        it("are refused if it " .. what, function()
            local answer = run(case[1] .. [[

                print(mtls.tls_options({ client_cert_id = "bad" }))
                ssl.stand_in.has_keyring = true
            ]])
            assert.matches("^nil\t", answer)
            assert.matches(case[2], answer, 1, true)
            assert.not_matches("c2VjcmV0", answer, 1, true)
        end)
    end
end)


-- With the caches of older and of newer versions of APISIX.
for versions, per_table in pairs({ ["up to 3.14"] = true, ["from 3.15 on"] = false }) do
    describe("tls_options of references, in APISIX " .. versions .. ",", function()
        local function run_version(code)
            return run("secret.stand_in.per_table = " .. tostring(per_table) .. "\n" .. code)
        end

        it("have the secrets, from a manager and from the environment", function()
            assert.equals(A, run_version([[
                secret.stand_in.values["$secret://vault/1/key"] = ${pem.client-a.encrypted.key}
                secret.stand_in.values["$secret://vault/1/pass"] = "correct horse"
                print(seen_with({ client_cert = "$ENV://MTLS_CERT",
                                  client_key = "$secret://vault/1/key",
                                  passphrase = "$secret://vault/1/pass" }))
            ]]))
        end)

        it("are the same table until a secret changes", function()
            assert.equals("true\ttrue\n" .. A .. B, run_version([[
                local values = secret.stand_in.values
                values["$secret://vault/2/cert"], values["$secret://vault/2/key"] = cert, key
                local tls = { client_cert = "$secret://vault/2/cert",
                              client_key = "$secret://vault/2/key" }
                local first = mtls.tls_options(tls)
                local fetched = secret.stand_in.fetched
                print(mtls.tls_options(tls) == first, fetched == secret.stand_in.fetched)
                print(seen_with(tls))
                values["$secret://vault/2/cert"], values["$secret://vault/2/key"] =
                    other_cert, other_key
                secret.stand_in.expire()
                print(seen_with(tls))
            ]]))
        end)

        for field, tls in pairs({
            client_cert = "client_cert = '$secret://vault/3/none', client_key = key",
            client_key = "client_cert = cert, client_key = '$ENV://MTLS_NONE'",
            passphrase = "client_cert = cert, client_key = key, passphrase = '$secret://x/y/z'",
            ca_cert = "ca_cert = '$env://MTLS_NONE'", server_name = "server_name = '$env://NONE'",
        }) do
            it("are refused if that of " .. field .. " has no value", function()
                local answer = run_version("print(mtls.tls_options({ " .. tls .. " }))")
                assert.matches("^nil\ttls%." .. field .. " refers to %$%a+://%S+, which has no "
                    .. "value", answer)
                assert.matches("check that this secret exists", answer, 1, true)
            end)
        end

        it("are refused if one stands for another", function()
            local answer = run_version([[
                secret.stand_in.values["$secret://vault/4/key"] = "$secret://vault/4/more"
                print(mtls.tls_options({ client_cert = cert,
                                         client_key = "$secret://vault/4/key" }))
            ]])
            assert.matches("^nil\ttls.client_key refers to", answer)
        end)
    end)
end


describe("tls_options", function()
    it("are not made anew for what did not change", function()
        assert.equals("true\tfalse\tfalse\n", run([[
            local tls = { client_cert = cert, client_key = key }
            local first = mtls.tls_options(tls)
            local same = mtls.tls_options(tls)
            tls.ssl_verify = false
            local changed = mtls.tls_options(tls)
            print(first == same, first == changed, changed.ssl_verify)
        ]]))
    end)

    it("are forgotten with their configuration", function()
        assert.equals("0\n", run([[
            local made = setmetatable({}, { __mode = "k" })
            for _ = 1, 1000 do
                made[mtls.tls_options({ client_cert = cert, client_key = key })] = true
            end
            collectgarbage()
            collectgarbage()
            local left = 0
            for _ in pairs(made) do
                left = left + 1
            end
            print(left)
        ]]))
    end)
end)


describe("request", function()
    local CONF = "timeout = 5000, keepalive = true, keepalive_timeout = 1000, keepalive_pool = 1"

    -- What is said about a failure with such a `tls`.
    local function error_of(tls)
        return run([[
            local uri = "https://localhost:${up}/echo"
            print(select(2, mtls.request({ ]] .. CONF .. ", tls = { " .. tls .. [[ } }, uri, {})))
        ]])
    end

    it("is made with the client certificate", function()
        assert.equals("200\n", run([[
            local tls = { client_cert = cert, client_key = key, ca_cert = ${pem.ca.crt} }
            local conf = { ]] .. CONF .. [[, tls = tls }
            print(mtls.request(conf, "https://localhost:${up}/echo", {}).status)
        ]]))
    end)

    it("says what is wrong in terms of the configuration", function()
        for tls, phrases in pairs({
            ["client_cert = other_cert, client_key = key"] = { "key_mismatch", "tls.client_key" },
            ["client_cert = 'x', client_key = key"] = {
                "bad_certificate_pem", "'tls.client_cert'" },
            ["client_cert = cert, client_key = ${pem.client-a.encrypted.key}"] = {
                "key_encrypted", "tls.passphrase" },
            ["ca_cert = '/nowhere/ca.pem', client_cert = cert, client_key = key"] = {
                "'tls.ca_cert'", "/nowhere/ca.pem" },
            ["client_cert = cert, client_key = key"] = { "apisix.ssl.ssl_trusted_certificate" },
        }) do
            local err = error_of(tls)
            for _, phrase in ipairs(phrases) do
                assert.matches(phrase, err, 1, true)
            end
            assert.not_matches("ssl_", (err:gsub("apisix%.ssl%.ssl_trusted_certificate", "")))
        end
    end)

    it("says that the certificate of an SSL object is wrong", function()
        assert.matches("key mismatch: 'tls.client_cert_id'", run([[
            router.stand_in.ssls.mixed = { type = "client", cert = cert, key = other_key }
            print(select(2, mtls.request({ ]] .. CONF .. [[, tls = { client_cert_id = "mixed" } },
                "https://localhost:${up}/echo", {})))
        ]]), 1, true)
    end)
end)


describe("the stand-ins for APISIX", function()
    it("fail on what they do not know", function()
        for _, use in ipairs({ "core.request.headers", "core.new = 1", "router.router_http",
                               "core.schema.check({ format = 'ipv4' }, {})" }) do
            assert.has_error(function()
                run(use:find("[=(]") and use or "print(" .. use .. ")")
            end)
        end
    end)
end)
