local call = require("spec.support.call")
local certs = require("spec.support.certs")
local costly = require("spec.support.certs.costly")
local fs = require("spec.support.fs")
local identity = require("spec.support.identity")
local nginx = require("spec.support.nginx")
local process = require("spec.support.process")

local PASSPHRASE = certs.PASSPHRASE
local WRONG = "wrong horse"

-- With what openssl makes them.
local FORMS = {
    [".encrypted.key"] = "AES-256",
    [".aes128-sha1.key"] = "AES-128 and HMAC-SHA1",
    [".aes192-sha512.key"] = "AES-192 and HMAC-SHA512",
    [".des3.key"] = "3DES",
    [".scrypt.key"] = "scrypt",
}


local gateway, server


local function assert_authenticates(name, options)
    identity.assert_authenticates(gateway, server.port, name, options)
end


-- The hint of a refusal; the same one everywhere.
local function refuse(options, code, ...)
    local outcomes = identity.assert_refused(gateway, server.port, options, code, ...)
    assert.equals(outcomes[1].details.hint, outcomes[2].details.hint)
    return outcomes[1].details.hint
end


setup(function()
    gateway = nginx.gateway()
    server = nginx.upstream()
end)

teardown(function()
    gateway:stop()
    server:stop()
end)


for form, cipher in pairs(FORMS) do
    describe("a key that is encrypted with " .. cipher, function()
        for _, name in ipairs({ "client-rsa", "client-p384", "client-ed25519" }) do
            it("is used with its passphrase (" .. name .. ")", function()
                assert.matches("BEGIN ENCRYPTED PRIVATE KEY", certs.read(name .. form))
                assert_authenticates(name, identity.text_of(name, form, PASSPHRASE))
                assert_authenticates(name, {
                    ssl_cert_path = certs.path(name .. ".crt"),
                    ssl_key_path = certs.path(name .. form), ssl_key_password = PASSPHRASE,
                })
            end)
        end

        it("is refused with another passphrase", function()
            for _, passphrase in ipairs({ WRONG, PASSPHRASE .. "\n", PASSPHRASE:sub(1, -2), "" }) do
                local hint = refuse(identity.text_of("client-a", form, passphrase),
                                    "key_passphrase_wrong", "'ssl_key'")
                assert.matches("ssl_key_password", hint, 1, true)
            end
        end)

        it("is refused without a passphrase", function()
            local hint = refuse(identity.text_of("client-a", form), "key_encrypted", "'ssl_key'")
            assert.matches("ssl_key_password", hint, 1, true)
            assert.not_matches("openssl", hint, 1, true)
        end)
    end)
end


describe("an encrypted key", function()
    it("is taken by every name that a key goes by", function()
        assert_authenticates("client-a", {
            ssl_client_cert = certs.read("client-a.crt"),
            ssl_client_priv_key = certs.read("client-a.encrypted.key"),
            ssl_key_password = PASSPHRASE,
        })
        assert_authenticates("client-a", {
            ssl_cert = certs.read("client-a.crt"),
            ssl_key_path = certs.path("client-a.encrypted.key"), ssl_key_password = PASSPHRASE,
        })
    end)

    it("is named by the option that gave it", function()
        for _, case in ipairs({ { nil, "key_encrypted" }, { WRONG, "key_passphrase_wrong" } }) do
            refuse({ ssl_cert_path = certs.path("client-a.crt"),
                     ssl_key_path = certs.path("client-a.encrypted.key"),
                     ssl_key_password = case[1] }, case[2], "'ssl_key_path'")
            refuse({ ssl_client_cert = certs.read("client-a.crt"),
                     ssl_client_priv_key = certs.read("client-a.encrypted.key"),
                     ssl_key_password = case[1] }, case[2], "'ssl_client_priv_key'")
        end
    end)

    it("may stand beside its certificate, with any line ends", function()
        local both = certs.read("client-a.crt") .. certs.read("client-a.encrypted.key")
        both = both:gsub("\n", "\r\n")
        assert_authenticates("client-a", { ssl_cert = both, ssl_key = both,
                                           ssl_key_password = PASSPHRASE })
    end)

    it("takes a passphrase of any characters", function()
        for _, passphrase in ipairs({ "pässwörd €", " $'\"\\ ", ("x"):rep(500) }) do
            local path = fs.temp_dir("key") .. "/key.pem"
            process.check({ "openssl", "pkcs8", "-topk8", "-in", certs.path("client-a.key"),
                            "-out", path, "-passout", "pass:" .. passphrase })
            local options = { ssl_cert = certs.read("client-a.crt"), ssl_key_path = path,
                              ssl_key_password = passphrase }
            assert_authenticates("client-a", options)
        end
    end)

    it("is refused with each of many other passphrases", function()
        -- Each 256th of them decrypts to something that ends as a block cipher's padding does.
        local path = fs.temp_dir("key") .. "/key.pem"
        process.check({ "openssl", "pkcs8", "-topk8", "-in", certs.path("client-a.key"),
                        "-out", path, "-iter", "1", "-passout", "pass:" .. PASSPHRASE })
        local options = identity.options_for(server.port, { ssl_cert = certs.read("client-a.crt"),
                                                            ssl_key = fs.read(path) })
        for i = 1, 2000 do
            options.ssl_key_password = WRONG .. i
            local outcome = call.make(options)
            assert.equals("key_passphrase_wrong", (outcome.details or {}).code, outcome.err)
        end
    end)

    it("of another certificate gives key_mismatch", function()
        local options = identity.text_of("client-b", ".encrypted.key", PASSPHRASE)
        options.ssl_cert = certs.read("client-a.crt")
        refuse(options, "key_mismatch", "'ssl_key'", "'ssl_cert'")
    end)

    it("of a size that is not accepted gives bad_key_pem", function()
        refuse(identity.text_of("client-rsa1024", ".encrypted.key", PASSPHRASE), "bad_key_pem")
    end)

    it("that is cut off or garbage gives bad_key_pem", function()
        local key = certs.read("client-rsa.encrypted.key")
        local options = identity.text_of("client-rsa", nil, PASSPHRASE)
        for _, text in ipairs({
            key:sub(1, #key / 2),
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            -- A whole PEM block with half of the key in it.
            (key:gsub("\n[%w+/=\n]+\n", function(lines)
                return lines:sub(1, 650) .. "\n"
            end)),
            certs.read("client-rsa.encrypted.key.der"),
        }) do
            options.ssl_key = text
            refuse(options, "bad_key_pem", "'ssl_key'")
        end
    end)

    it("with an older cipher than PBES2 has gives bad_key_pem", function()
        refuse(identity.text_of("client-rsa", ".pbes1.key", PASSPHRASE), "bad_key_pem",
               "'ssl_key'", "not supported")
    end)

    it("opened once is not open to a caller with another passphrase", function()
        local options = identity.text_of("client-rsa", ".encrypted.key", PASSPHRASE)
        options.keep = true
        assert_authenticates("client-rsa", options)
        for _, passphrase in ipairs({ WRONG, "" }) do
            options.ssl_key_password = passphrase
            refuse(options, "key_passphrase_wrong")
        end
        options.ssl_key_password = nil
        refuse(options, "key_encrypted")
        options.ssl_key_password = PASSPHRASE
        assert_authenticates("client-rsa", options)
    end)
end)


describe("an encrypted key that says what it costs to try a passphrase", function()
    local function refusals(prices)
        local keys = {}
        for i, price in ipairs(prices) do
            keys[i] = costly.key(price)
        end
        return ipairs(costly.refusals("ssl_key_path", keys))
    end

    it("is tried if that is no more than OpenSSL would pay", function()
        for _, line in refusals({
            { iterations = 1 }, { iterations = 1000000 }, { cost = 2 ^ 14, block = 8, lanes = 1 },
            { cost = 2 ^ 15, block = 8, lanes = 1 },
        }) do
            assert.matches("^key_passphrase_wrong: .*'ssl_key_path'", line)
        end
    end)

    it("is refused without being tried if it wants more than 32 MB (scrypt)", function()
        for _, line in refusals({
            { cost = 2 ^ 16, block = 8, lanes = 1 }, { cost = 2 ^ 15, block = 8, lanes = 2 },
            { cost = 2 ^ 14, block = 17, lanes = 1 }, { cost = 2 ^ 40, block = 8, lanes = 1 },
            -- The product is 0 if it is cut off after 64 bits.
            { cost = 2 ^ 57, block = 1, lanes = 1 },
            { cost = 2 ^ 63, block = 65535, lanes = 65535 },
        }) do
            assert.matches("^bad_key_pem: .*'ssl_key_path'.* memory", line)
        end
    end)

    it("is refused without being tried beyond ten million iterations (PBKDF2)", function()
        for _, line in refusals({ { iterations = 10000001 }, { iterations = 2 ^ 32 - 1 } }) do
            assert.matches("^bad_key_pem: .*'ssl_key_path'.* iterations", line)
        end
    end)
end)


describe("a key with a Proc-Type line", function()
    local FORM = ".legacy.key"

    it("is refused, with a passphrase or without", function()
        for _, name in ipairs({ "client-rsa", "client-a" }) do
            assert.matches("Proc-Type: 4,ENCRYPTED", certs.read(name .. FORM), 1, true)
            for _, passphrase in ipairs({ false, PASSPHRASE, WRONG }) do
                local hint = refuse(identity.text_of(name, FORM, passphrase or nil),
                                    "key_encrypted", "'ssl_key'")
                assert.matches("openssl pkcs8 -topk8", hint, 1, true)
            end
        end
        refuse({ ssl_cert_path = certs.path("client-a.crt"),
                 ssl_key_path = certs.path("client-a" .. FORM),
                 ssl_key_password = PASSPHRASE }, "key_encrypted", "'ssl_key_path'")
    end)

    it("is used once the command in the hint has converted it", function()
        for _, name in ipairs({ "client-rsa", "client-a" }) do
            local hint = refuse(identity.text_of(name, FORM, PASSPHRASE), "key_encrypted")
            local command, input, output =
                hint:match("(openssl pkcs8 %-topk8 .-%-in (%S+) %-out ([%w._-]+))")
            assert.is_string(command, hint)

            local dir = fs.temp_dir("convert")
            fs.write(dir .. "/" .. input, certs.read(name .. FORM))
            -- Without a terminal openssl asks for the passphrases on the standard input.
            local result = process.run({ "setsid", "--wait", "sh", "-c", command }, {
                cwd = dir, stdin = PASSPHRASE .. "\n" .. ("new one\n"):rep(2),
            })
            assert.equals(0, result.code, result.stderr)
            assert_authenticates(name, {
                ssl_cert = certs.read(name .. ".crt"), ssl_key_path = dir .. "/" .. output,
                ssl_key_password = "new one",
            })
        end
    end)
end)


describe("ssl_key_password", function()
    it("is ignored for a key that is not encrypted", function()
        for _, case in ipairs({ { "client-a", ".pkcs8.key" }, { "client-a", ".sec1.key" },
                                { "client-rsa", ".pkcs1.key" }, { "client-ed25519", ".key" } }) do
            for _, passphrase in ipairs({ PASSPHRASE, "" }) do
                assert_authenticates(case[1], identity.text_of(case[1], case[2], passphrase))
            end
        end
    end)

    it("is refused without a key", function()
        refuse({ ssl_key_password = PASSPHRASE }, "bad_argument", "'ssl_key_password'")
    end)

    it("is refused over plain http", function()
        refuse({ scheme = "http", ssl_key_password = PASSPHRASE }, "bad_argument",
               "'ssl_key_password'", "https")
    end)

    it("is a string", function()
        for _, value in ipairs({ 4711, true, {} }) do
            local options = identity.text_of("client-a", ".encrypted.key", value)
            refuse(options, "bad_argument", "'ssl_key_password'", "string")
        end
    end)
end)
