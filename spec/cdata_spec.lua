local certs = require("spec.support.certs")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")

-- What chunks begin with: identities as ngx.ssl parses them, and one call in a line of the output.
local PRELUDE = [[
    local ffi, ssl = require("ffi"), ngx and require("ngx.ssl")
    local http, call = require("resty.mtls.http"), require("spec.support.call")
    local pem = {
        ["client-a"] = { ${pem.client-a.crt}, ${pem.client-a.key} },
        ["client-b"] = { ${pem.client-b.crt}, ${pem.client-b.key} },
        ["client-rsa"] = { ${pem.client-rsa.crt}, ${pem.client-rsa.key} },
        ["client-p384"] = { ${pem.client-p384.crt}, ${pem.client-p384.key} },
        ["client-ed25519"] = { ${pem.client-ed25519.crt}, ${pem.client-ed25519.key} },
        ["client-chained"] = { ${pem.client-chained.crt}, ${pem.client-chained.key} },
    }

    local function certificate(name)
        return assert(ssl.parse_pem_cert(pem[name][1]))
    end

    local function key(name)
        return assert(ssl.parse_pem_priv_key(pem[name][2]))
    end

    local function options_for(identity)
        identity.scheme, identity.host, identity.port = "https", "localhost", ${up}
        identity.ssl_trusted_certificate = ${pem.ca.crt}
        identity.request = { path = "/echo" }
        return identity
    end

    -- Whom the server saw, or the code and the message.
    local function visit(identity)
        local outcome = call.make(options_for(identity))
        if outcome.body then
            return outcome.body:match("\nsubject: CN=([^,]*)")
        end
        return outcome.details.code .. " " .. outcome.err
    end
]]

local gateway, server


local function run(code, phase)
    return gateway:run(PRELUDE .. code, { vars = { up = server.port }, phase = phase })
end


setup(function()
    gateway = nginx.gateway()
    server = nginx.upstream()
end)

teardown(function()
    gateway:stop()
    server:stop()
end)


describe("an identity that ngx.ssl has parsed", function()
    for _, name in ipairs({ "client-a", "client-rsa", "client-p384", "client-ed25519",
                            "client-chained" }) do
        it("is used (" .. name .. ")", function()
            for _, phase in ipairs({ "content", "access", "timer" }) do
                assert.equals((name .. "\n"):rep(2), run(([[
                    print(visit({ ssl_client_cert = certificate("NAME"),
                                  ssl_client_priv_key = key("NAME") }))
                    print(visit({ ssl_cert = certificate("NAME"), ssl_key = key("NAME") }))
                ]]):gsub("NAME", name), phase))
            end
        end)
    end

    it("may be one half of a pair", function()
        assert.equals(("client-rsa\n"):rep(5), run([[
            local name = "client-rsa"
            print(visit({ ssl_client_cert = certificate(name),
                          ssl_client_priv_key = pem[name][2] }))
            print(visit({ ssl_client_cert = pem[name][1], ssl_client_priv_key = key(name) }))
            print(visit({ ssl_cert = certificate(name), ssl_key_path = "${cert.client-rsa.key}" }))
            print(visit({ ssl_cert_path = "${cert.client-rsa.crt}", ssl_key = key(name) }))
            print(visit({ ssl_cert = certificate(name), ssl_key = ${pem.client-rsa.encrypted.key},
                          ssl_key_password = "]] .. certs.PASSPHRASE .. [[" }))
        ]]))
    end)

    it("is taken by request_uri and tls_handshake", function()
        assert.equals("client-ed25519\nclient-ed25519\n", run([[
            local options = { ssl_client_cert = certificate("client-ed25519"),
                              ssl_client_priv_key = key("client-ed25519"),
                              ssl_trusted_certificate = ${pem.ca.crt} }
            local res = assert(http.new():request_uri("https://localhost:${up}/echo", options))
            print(res.body:match("\nsubject: CN=([^,]*)"))

            local httpc = http.new()
            assert(httpc:connect("127.0.0.1", ${up}))
            assert(httpc:tls_handshake({
                server_name = "localhost", trusted_certificate = ${pem.ca.crt},
                client_cert = options.ssl_client_cert,
                client_priv_key = options.ssl_client_priv_key,
            }))
            res = assert(httpc:request({ path = "/echo", headers = { Host = "localhost" } }))
            print(res:read_body():match("\nsubject: CN=([^,]*)"))
        ]]))
    end)

    it("needs both halves, of the same identity", function()
        local output = run([[
            print(visit({ ssl_client_cert = certificate("client-a") }))
            print(visit({ ssl_client_priv_key = key("client-a") }))
            print(visit({ ssl_cert = certificate("client-a"),
                          ssl_client_priv_key = key("client-a") }))
            print(visit({ ssl_client_cert = certificate("client-a"),
                          ssl_client_priv_key = key("client-b") }))
            print(visit({ ssl_cert = certificate("client-a"), ssl_key = key("client-rsa") }))
        ]])
        local expected = { "bad_argument", "bad_argument", "bad_argument", "key_mismatch",
                           "key_mismatch" }
        local i = 0
        for code in output:gmatch("([%w_]+) [^\n]*\n") do
            i = i + 1
            assert.equals(expected[i], code, output)
        end
        assert.equals(#expected, i)
    end)

    it("is used again, in a connection of its own caller only", function()
        assert.equals("client-a 0\nclient-a 1\nclient-b 0\nclient-a 2\nclient-b 1\n", run([[
            for _, name in ipairs({ "client-a", "client-a", "client-b", "client-a", "client-b" }) do
                local outcome = call.make(options_for({
                    ssl_client_cert = certificate(name), ssl_client_priv_key = key(name),
                    keep = true,
                }))
                print(outcome.body:match("\nsubject: CN=([^,]*)") .. " " .. outcome.reused)
            end
        ]]))
    end)
end)


describe("identities that are parsed anew for each request", function()
    -- Addresses repeat when what was there has been collected.
    it("are each seen as who they are", function()
        assert.equals("0\n", run([[
            local names = { "client-a", "client-b", "client-rsa", "client-ed25519" }
            local wrong = 0
            for i = 1, 200 do
                local name = names[i % 4 + 1]
                local identity = { ssl_client_cert = certificate(name), keep = i % 3 == 0,
                                   ssl_client_priv_key = key(name) }
                if visit(identity) ~= name then
                    wrong = wrong + 1
                end
                identity.ssl_client_cert, identity.ssl_client_priv_key = nil, nil
                collectgarbage()
            end
            print(wrong)
        ]]))
    end)

    it("share connections, and are not held on to", function()
        -- A process of its own: its counters and its memory are those of this chunk.
        local output = nginx.run_lua(PRELUDE .. [[
            local alive = setmetatable({}, { __mode = "k" })

            local function visit_afresh()
                local identity = { ssl_client_cert = certificate("client-rsa"), keep = true,
                                   ssl_client_priv_key = key("client-rsa") }
                alive[identity.ssl_client_cert] = true
                alive[identity.ssl_client_priv_key] = true
                assert(visit(identity) == "client-rsa")
            end

            local function memory()
                collectgarbage()
                collectgarbage()
                return collectgarbage("count") * 1024
            end

            -- The compiler takes memory at first.
            for _ = 1, 250 do
                visit_afresh()
            end
            local before = memory()
            for _ = 1, 200 do
                visit_afresh()
            end
            local grown, held = memory() - before, 0
            for _ in pairs(alive) do
                held = held + 1
            end
            local stats = http.stats()
            -- Each has more than two kilobytes of text.
            print(grown < 200 * 500 or grown, held <= 2 or held)
            print(stats.requests, stats.connections_opened, stats.handshakes_full)
        ]], { vars = { up = server.port } })
        assert.equals("true\ttrue\n450\t1\t1\n", output)
    end)
end)


describe("another cdata", function()
    -- The codes and the messages, one in a line, for each of the four options.
    local chunk = PRELUDE .. [[
        local function try(value)
            for _, name in ipairs({ "ssl_cert", "ssl_client_cert" }) do
                local key_name = name == "ssl_cert" and "ssl_key" or "ssl_client_priv_key"
                print(name .. " " .. visit({ [name] = value, [key_name] = pem["client-a"][2] }))
                print(key_name .. " " .. visit({ [name] = pem["client-a"][1], [key_name] = value }))
            end
        end
    ]]

    local function assert_refused(output, count)
        local refused = 0
        for name, message in output:gmatch("([%w_]+) bad_argument ([^\n]*)\n") do
            assert.matches("'" .. name .. "'", message, 1, true)
            refused = refused + 1
        end
        assert.equals(4 * count, refused, output)
        assert.equals(4 * count, select(2, output:gsub("\n", "")), output)
    end

    it("is refused", function()
        assert_refused(gateway:run(chunk .. [[
            try(ffi.new("int[1]"))
            try(ffi.new("int"))
            try(ffi.new("uint8_t[?]", 64))
            try(ffi.new("void *[1]"))
            try(ffi.new("struct { void *pointer; }"))
            try(ffi.cast("const char *", "text"))
            try(ffi.new("int64_t", 4096))
        ]], { vars = { up = server.port } }), 7)
    end)

    it("is refused if it is a type", function()
        assert_refused(gateway:run(chunk .. [[
            try(ffi.typeof("void *"))
            try(ffi.typeof("int"))
        ]], { vars = { up = server.port } }), 2)
    end)

    it("is refused if it is a pointer to nothing", function()
        assert_refused(gateway:run(chunk .. [[
            try(ffi.cast("void *", nil))
            try(ffi.new("void *"))
        ]], { vars = { up = server.port } }), 2)
    end)

    -- Also where a call with the same options and without the pointer has been remembered, which
    -- would be made as nobody, or with the trust of the system.
    local nothing = PRELUDE .. [[
        local NOTHING = ffi.new("void *")
        local names = {
            "ssl_cert", "ssl_key", "ssl_cert_path", "ssl_key_path", "ssl_client_cert",
            "ssl_client_priv_key", "ssl_pkcs12", "ssl_key_password", "ssl_pinned_pubkey",
            "ssl_trusted_certificate", "ssl_crl", "ssl_min_version", "ssl_max_version",
        }

        local function try(name, options)
            options.scheme, options.host, options.port = "https", "localhost", ${up}
            local httpc = http.new()
            local ok, err, details = httpc:connect(options)
            print(name, ok or details.code .. (err:find("'" .. name .. "'", 1, true) and "" or err))
            httpc:close()
        end

        try("nothing", { ssl_trusted_certificate = ${pem.ca.crt} })
        for _, name in ipairs(names) do
            local options = { ssl_trusted_certificate = ${pem.ca.crt} }
            options[name] = NOTHING
            try(name, options)
        end
        local pair = { ssl_cert = pem["client-a"][1], ssl_key = pem["client-a"][2],
                       ssl_trusted_certificate = { ${pem.ca.crt} } }
        try("a pair", pair)
        for _, name in ipairs(names) do
            local options = { ssl_cert = pair.ssl_cert, ssl_key = pair.ssl_key,
                              ssl_trusted_certificate = { ${pem.ca.crt} } }
            options[name] = NOTHING
            try(name, options)
        end
        try("ssl_trusted_certificate", { ssl_trusted_certificate = { ${pem.ca.crt}, NOTHING } })
    ]]

    it("is refused if it is a pointer to nothing, whatever is remembered", function()
        local vars = { up = server.port }
        for _, output in ipairs({ gateway:run(nothing, { vars = vars }),
                                  plain.run_lua(nothing, { vars = vars }) }) do
            local refused = 0
            for line in output:gmatch("[^\n]+") do
                local name, outcome = line:match("^(%a[%w_ ]*)\t(.*)$")
                local is_given = name ~= "nothing" and name ~= "a pair"
                assert.equals(is_given and "bad_argument" or "true", outcome, name)
                refused = refused + (is_given and 1 or 0)
            end
            assert.equals(2 * 13 + 1, refused, output)
        end
    end)

    it("is refused by tls_handshake too", function()
        assert.equals(("bad_argument\n"):rep(5), run([[
            local function handshake(options)
                local httpc = http.new()
                assert(httpc:connect("localhost", ${up}))
                options.server_name, options.verify = "localhost", true
                local ok, _, details = httpc:tls_handshake(options)
                httpc:close()
                return ok or details.code
            end
            assert(handshake({ trusted_certificate = ${pem.ca.crt} }) == true)
            for _, name in ipairs({ "client_cert", "client_priv_key", "client_cert_path",
                                    "client_priv_key_path", "trusted_certificate" }) do
                local options = { trusted_certificate = ${pem.ca.crt} }
                options[name] = ffi.new("void *")
                print(handshake(options))
            end
        ]]))
    end)

    it("is refused outside of nginx, where nothing has parsed it", function()
        assert_refused(plain.run_lua(chunk .. [[
            local memory = ffi.new("uint8_t[?]", 4096)
            try(ffi.cast("void *", memory))
            try(ffi.cast("void *", nil))
            try(memory)
        ]], { vars = { up = server.port } }), 3)
    end)

    it("is refused where text is meant", function()
        local output = run([[
            for _, name in ipairs({ "ssl_cert_path", "ssl_key_path", "ssl_pkcs12",
                                    "ssl_trusted_certificate", "ssl_key_password", "ssl_crl" }) do
                local identity = options_for({ ssl_cert = pem["client-a"][1],
                                               ssl_key = pem["client-a"][2] })
                if name:find("path") then
                    identity[name:gsub("_path", "")] = nil
                elseif name == "ssl_pkcs12" then
                    identity.ssl_cert, identity.ssl_key = nil, nil
                end
                identity[name] = certificate("client-a")
                local outcome = call.make(identity)
                print(outcome.details.code, outcome.err:find("'" .. name .. "'", 1, true) ~= nil)
            end
        ]])
        assert.equals(("bad_argument\ttrue\n"):rep(6), output)
    end)

    it("over plain http is refused as text is", function()
        assert.equals("bad_argument\n", run([[
            local identity = options_for({ ssl_cert = certificate("client-a"),
                                           ssl_key = key("client-a") })
            identity.scheme = "http"
            print(call.make(identity).details.code)
        ]]))
    end)
end)
