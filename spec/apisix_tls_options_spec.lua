--- From a plugin's `tls` to options of `connect`: resty.mtls.apisix.tls_options.
local certs = require("spec.support.certs")
local chunk_runner = require("spec.support.apisix.chunks")

local A, B = "CN=client-a,O=Example\n", "CN=client-b,O=Example\n"

local chunks


setup(function()
    chunks = chunk_runner.start({
        MTLS_CERT = certs.read("client-a.crt"):gsub("\n", "\\n"),
        MTLS_KEY = certs.read("client-a.key"):gsub("\n", "\\r\\n"),
    })
end)

teardown(function() chunks:stop() end)


describe("tls_options", function()
    it("are none without a tls", function()
        assert.equals("nil\n", chunks:run("print(next(mtls.tls_options(nil)))"))
    end)

    it("have all that a tls has", function()
        assert.equals("cert key pass ca false name\n", chunks:run([[
            local o = mtls.tls_options({ client_cert = "cert", client_key = "key",
                passphrase = "pass", ca_cert = "ca", ssl_verify = false, server_name = "name" })
            print(table.concat({ o.ssl_cert, o.ssl_key, o.ssl_key_password,
                o.ssl_trusted_certificate, tostring(o.ssl_verify), o.ssl_server_name }, " "))
        ]]))
    end)

    it("take PEM", function()
        assert.equals(A, chunks:run("print(seen_with({ client_cert = cert, client_key = key }))"))
    end)

    it("take PEM with \\n in place of line ends, and leave other texts alone", function()
        assert.equals(A .. "/etc/ssl\\new.pem\n", chunks:run([[
            local function escaped(pem)
                return (pem:gsub("\n", "\\n"))
            end
            print(seen_with({ client_cert = escaped(cert), client_key = escaped(key),
                              ca_cert = escaped(${pem.ca.crt}) }))
            print(mtls.tls_options({ ca_cert = "/etc/ssl\\new.pem" }).ssl_trusted_certificate)
        ]]))
    end)

    it("take an encrypted key with its passphrase", function()
        assert.equals(A, chunks:run([[
            print(seen_with({ client_cert = cert, client_key = ${pem.client-a.encrypted.key},
                              passphrase = "correct horse" }))
        ]]))
    end)
end)


describe("tls_options of an SSL object", function()
    it("decrypt its key", function()
        assert.equals(A .. B, chunks:run([[
            router.stand_in.ssls["7"] = { type = "client", cert = cert,
                                          key = ssl.stand_in.encrypt(key) }
            router.stand_in.ssls.name = { type = "client", cert = other_cert, key = other_key }
            print(seen_with({ client_cert_id = 7 }))
            print(seen_with({ client_cert_id = "name" }))
        ]]))
    end)

    it("follow it when it changes, and decrypt the key once until then", function()
        assert.equals(A .. "true\t1\n" .. B .. "2\n", chunks:run([[
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
        assert.equals(A, chunks:run([[
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
            local answer = chunks:run(case[1] .. [[

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
            return chunks:run("secret.stand_in.per_table = " .. tostring(per_table) .. "\n" .. code)
        end

        it("have the secrets, from a manager and from the environment", function()
            assert.equals(A .. A, run_version([[
                secret.stand_in.values["$secret://vault/1/key"] = ${pem.client-a.encrypted.key}
                secret.stand_in.values["$secret://vault/1/pass"] = "correct horse"
                print(seen_with({ client_cert = "$env://MTLS_CERT",
                                  client_key = "$Env://MTLS_KEY" }))
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
        assert.equals("true\tfalse\tfalse\n", chunks:run([[
            local tls = { client_cert = cert, client_key = key }
            local first = mtls.tls_options(tls)
            local same = mtls.tls_options(tls)
            tls.ssl_verify = false
            local changed = mtls.tls_options(tls)
            print(first == same, first == changed, changed.ssl_verify)
        ]]))
    end)

    it("are made anew for a certificate that was renewed with its key", function()
        assert.equals("true\n", chunks:run([[
            router.stand_in.ssls.renewed = { type = "client", cert = cert, key = key }
            local tls = { client_cert_id = "renewed" }
            mtls.tls_options(tls)
            local renewed = cert .. ${pem.ca.crt}
            router.stand_in.ssls.renewed = { type = "client", cert = renewed, key = key }
            print(mtls.tls_options(tls).ssl_cert == renewed)
        ]]))
    end)

    it("have no server name that cannot be one", function()
        local refused = "nil\ttls.server_name is no host name\n"
        local name = "print(mtls.tls_options({ server_name = ('a'):rep(%d) .. '%s' }) and true)"
        assert.equals("true\n", chunks:run(name:format(63, ".test")))
        for _, wrong in ipairs({
            "('a'):rep(64) .. '.test'", "('a.'):rep(127)", "'a/b'", "'a\\nb'", "'a+b='",
        }) do
            assert.equals(refused, chunks:run("print(mtls.tls_options({ server_name = " .. wrong
                .. " }))"))
        end
    end)

    it("are forgotten with their configuration", function()
        assert.equals("0\n", chunks:run([[
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
