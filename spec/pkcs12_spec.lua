local certs = require("spec.support.certs")
local costly = require("spec.support.certs.costly")
local fs = require("spec.support.fs")
local identity = require("spec.support.identity")
local nginx = require("spec.support.nginx")
local pkcs12 = require("spec.support.certs.pkcs12")

local PASSWORD = certs.PASSPHRASE
local WRONG = "wrong horse"

local gateway, server


local function assert_authenticates(name, bytes_or_path, password)
    identity.assert_authenticates(gateway, server.port, name, {
        ssl_pkcs12 = bytes_or_path, ssl_key_password = password,
    })
end


-- The hint of a refusal.
local function refuse(options, code, ...)
    local outcomes = identity.assert_refused(gateway, server.port, options, code, ...)
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


describe("a PKCS#12 file", function()
    for what, arguments in pairs({
        ["as OpenSSL 3 makes them"] = {},
        ["as older programs make them, with RC2 and 3DES"] = { "-legacy" },
        ["with 3DES"] = { "-keypbe", "PBE-SHA1-3DES", "-certpbe", "PBE-SHA1-3DES",
                          "-macalg", "sha1" },
        ["with AES-128"] = { "-keypbe", "aes-128-cbc", "-certpbe", "aes-128-cbc" },
        ["with AES-256, and a MAC of SHA-1"] = { "-macalg", "sha1" },
        ["with a MAC of SHA-512"] = { "-macalg", "sha512" },
        ["with certificates that are not encrypted"] = { "-certpbe", "NONE" },
        ["with a key that is not encrypted"] = { "-keypbe", "NONE" },
        ["with a MAC and no encryption"] = { "-keypbe", "NONE", "-certpbe", "NONE" },
        ["without a MAC"] = { "-nomac" },
        ["with a friendly name"] = { "-name", "a friend" },
        ["with many iterations"] = { "-iter", "50000" },
    }) do
        it(what .. " is used", function()
            for _, name in ipairs({ "client-a", "client-rsa", "client-ed25519" }) do
                local path = pkcs12.path(name, { arguments = arguments })
                assert_authenticates(name, path, PASSWORD)
                assert_authenticates(name, fs.read(path), PASSWORD)
            end
        end)

        it(what .. " is refused with another password", function()
            local path = pkcs12.path("client-a", { arguments = arguments })
            for _, options in ipairs({
                { ssl_pkcs12 = path, ssl_key_password = WRONG },
                { ssl_pkcs12 = fs.read(path), ssl_key_password = WRONG },
                { ssl_pkcs12 = path, ssl_key_password = "" },
            }) do
                local hint = refuse(options, "key_passphrase_wrong", "'ssl_pkcs12'")
                assert.matches("ssl_key_password", hint, 1, true)
            end
        end)

        it(what .. " is refused without a password", function()
            local hint = refuse({ ssl_pkcs12 = pkcs12.path("client-a", { arguments = arguments }) },
                                "key_encrypted", "'ssl_pkcs12'")
            assert.matches("ssl_key_password", hint, 1, true)
        end)
    end

    it("with a chain is used with its chain", function()
        assert_authenticates("client-chained", pkcs12.path("client-chained"), PASSWORD)
        -- Without it the server cannot verify the certificate: the chain above did matter.
        local path = pkcs12.path("client-chained", { certificates = "client-chained.leaf.crt" })
        for _, outcome in ipairs(identity.outcomes(gateway, server.port, {
            ssl_pkcs12 = path, ssl_key_password = PASSWORD,
        })) do
            assert.equals(400, outcome.status, outcome.err)
        end
    end)

    it("with an empty password is used with and without ssl_key_password", function()
        local plain = { "-keypbe", "NONE", "-certpbe", "NONE" }
        for _, arguments in ipairs({ {}, { "-legacy" }, plain }) do
            local path = pkcs12.path("client-a", { password = "", arguments = arguments })
            assert_authenticates("client-a", path, "")
            assert_authenticates("client-a", path)
        end
    end)

    it("takes a password of any characters", function()
        for _, password in ipairs({ "pässwörd €", " $'\"\\ ", ("x"):rep(200) }) do
            for _, arguments in ipairs({ {}, { "-legacy" } }) do
                local path = pkcs12.path("client-a", { password = password, arguments = arguments })
                assert_authenticates("client-a", path, password)
            end
        end
    end)
end)


describe("a PKCS#12 file that cannot be used", function()
    it("is garbage", function()
        local bytes = pkcs12.bytes("client-rsa")
        local trash = fs.temp_dir("trash") .. "/trash.p12"
        fs.write(trash, "trash")
        for _, value in ipairs({
            bytes:sub(1, #bytes / 2), bytes:sub(1, -2), bytes:sub(1, 4), "0", "0\128", "0\3\2\1\3",
            certs.read("client-a.crt.der"), certs.read("client-a.key.der"), trash,
            certs.path("client-a.crt"), certs.path("client-a.key"), fs.temp_dir("folder"),
        }) do
            refuse({ ssl_pkcs12 = value, ssl_key_password = PASSWORD }, "bad_pkcs12",
                   "'ssl_pkcs12'")
        end
    end)

    it("has a changed byte anywhere", function()
        local bytes = pkcs12.bytes("client-a")
        local codes = { bad_pkcs12 = true, key_passphrase_wrong = true }
        for at = 2, #bytes, 41 do
            local changed = bytes:sub(1, at - 1) .. string.char((bytes:byte(at) + 1) % 256)
                .. bytes:sub(at + 1)
            local options = { ssl_pkcs12 = changed, ssl_key_password = PASSWORD }
            for _, outcome in ipairs(identity.outcomes(gateway, server.port, options)) do
                -- What was changed may stand for nothing: the name of a friend.
                local code = (outcome.details or {}).code
                assert.is_true(codes[code] or outcome.status == 200, outcome.err)
            end
        end
    end)

    it("is missing", function()
        local missing = fs.temp_dir("missing") .. "/nothing.p12"
        refuse({ ssl_pkcs12 = missing, ssl_key_password = PASSWORD }, "bad_pkcs12",
               "'ssl_pkcs12'", missing, "No such file")
    end)

    it("has no key, or no certificate for it", function()
        local no_key = pkcs12.path("client-a", { arguments = { "-nokeys" } })
        refuse({ ssl_pkcs12 = no_key, ssl_key_password = PASSWORD }, "bad_pkcs12",
               "'ssl_pkcs12'", "key")
        local no_certificate = pkcs12.path("client-a", { arguments = { "-nocerts" } })
        refuse({ ssl_pkcs12 = no_certificate, ssl_key_password = PASSWORD }, "bad_pkcs12",
               "'ssl_pkcs12'", "certificate")
    end)

    it("wants scrypt, whatever it costs, or more iterations than anybody waits for", function()
        local cheap = costly.pkcs12({ iterations = 1 })
        local lines = costly.refusals("ssl_pkcs12", {
            cheap, costly.pkcs12({ cost = 2, block = 8, lanes = 1 }),
            costly.pkcs12({ cost = 2 ^ 40, block = 8, lanes = 1 }),
            costly.pkcs12({ iterations = 2 ^ 32 - 1 }),
        })
        -- Apart from its price the file is as it should be.
        assert.matches("^key_passphrase_wrong: ", lines[1])
        assert.matches("^bad_pkcs12: .*'ssl_pkcs12'.* scrypt", lines[2])
        assert.matches("^bad_pkcs12: .*'ssl_pkcs12'.* scrypt", lines[3])
        assert.matches("^bad_pkcs12: .*'ssl_pkcs12'", lines[4])
    end)

    it("has a key of a size that is not accepted", function()
        refuse({ ssl_pkcs12 = pkcs12.path("client-rsa1024"), ssl_key_password = PASSWORD },
               "bad_key_pem", "'ssl_pkcs12'")
    end)
end)


describe("ssl_pkcs12", function()
    it("is refused beside another identity", function()
        for _, name in ipairs({ "ssl_cert", "ssl_key", "ssl_cert_path", "ssl_key_path",
                                "ssl_client_cert", "ssl_client_priv_key" }) do
            local file = certs.path(name:find("key") and "client-a.key" or "client-a.crt")
            refuse({ ssl_pkcs12 = pkcs12.path("client-a"), ssl_key_password = PASSWORD,
                     [name] = name:find("path") and file or fs.read(file) },
                   "bad_argument", "cannot specify both 'ssl_pkcs12' and")
        end
    end)

    it("is refused over plain http", function()
        refuse({ scheme = "http", ssl_pkcs12 = pkcs12.path("client-a") }, "bad_argument",
               "'ssl_pkcs12'", "https")
    end)

    it("is a string that is not empty", function()
        for _, value in ipairs({ 42, true, {}, "" }) do
            refuse({ ssl_pkcs12 = value }, "bad_argument", "'ssl_pkcs12'")
        end
    end)
end)
