-- What is no path, given under an option that takes one, may be a secret: nothing of it is shown.
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local mime = require("mime")
local pkcs12 = require("spec.support.certs.pkcs12")
local places = require("spec.support.places")
local process = require("spec.support.process")
local tells_no_secret = require("spec.support.identity").assert_tells_no_secret


local KEY = certs.read("client-rsa.key")
local PKCS12 = mime.b64(pkcs12.bytes("client-rsa"))


local function without_lines(text)
    return (text:gsub("\n", ""))
end


local function wrapped(text)
    return (text:gsub(("."):rep(64), "%0\n"))
end


-- Ways in which secrets are put into configurations.
local SHORT = without_lines(certs.read("client-a.key"):gsub("%-%-%-%-%-[^\n]*\n", ""))
local SHORTER = without_lines(certs.read("client-ed25519.key"):gsub("%-%-%-%-%-[^\n]*\n", ""))

local SECRETS = {
    ["PEM text"] = KEY,
    ["PEM text with other line ends"] = KEY:gsub("\n", "\r\n"),
    ["PEM text in one line"] = without_lines(KEY),
    ["PEM text with escaped line ends"] = KEY:gsub("\n", "\\n"),
    ["PEM text with certificate and key"] = certs.read("client-rsa.crt") .. KEY,
    ["PEM text of an encrypted key"] = certs.read("client-rsa.encrypted.key"),
    ["base64 of a key in lines"] = KEY:gsub("%-%-%-%-%-[^\n]*\n", ""),
    ["base64 of a key with escaped line ends"] =
        KEY:gsub("%-%-%-%-%-[^\n]*\n", ""):gsub("\n", "\\n"),
    ["base64 of a key"] = without_lines(KEY:gsub("%-%-%-%-%-[^\n]*\n", "")),
    ["base64 of a short key"] = SHORT,
    ["base64 of a shorter key"] = SHORTER,
    ["base64 of a PKCS#12 file"] = PKCS12,
    ["base64 of a PKCS#12 file in lines"] = wrapped(PKCS12),
    ["a key's DER"] = certs.read("client-rsa.key.der"),
}

-- What is looked for in what was said: their lines, each of which may have been quoted.
local LINES = table.concat({
    KEY, SHORT, SHORTER, certs.read("client-rsa.encrypted.key"), wrapped(PKCS12),
}, "\n")


-- Options with a secret in the wrong place, by the option, and the code that it gives.
local function cases_of(secret)
    local crt, key = certs.path("client-rsa.crt"), certs.path("client-rsa.key")
    local is_pem = secret:find("-----BEGIN", 1, true)
    local trust_code = is_pem and "bad_certificate_pem" or "bad_argument"
    if secret:find("BEGIN CERTIFICATE", 1, true) then
        trust_code = "connect_refused"
    end
    return {
        { "ssl_cert_path", "bad_argument", { ssl_cert_path = secret, ssl_key_path = key } },
        { "ssl_key_path", "bad_argument", { ssl_cert_path = crt, ssl_key_path = secret } },
        { "ssl_key_path", "bad_argument",
          { ssl_cert = certs.read("client-rsa.crt"), ssl_key_path = secret } },
        -- The others take text or bytes as well.
        { "ssl_pkcs12", "bad_pkcs12",
          { ssl_pkcs12 = secret, ssl_key_password = certs.PASSPHRASE } },
        { "ssl_trusted_certificate", trust_code, { ssl_trusted_certificate = secret } },
        { "ssl_trusted_certificate", trust_code,
          { ssl_trusted_certificate = { certs.path("ca.crt"), secret } } },
        { "ssl_server_name", "bad_argument", { ssl_server_name = secret } },
        { "ssl_crl", is_pem and "bad_crl" or "bad_argument", { ssl_crl = secret } },
    }
end


-- Makes and diagnoses a call, in a process of its own.
local CHUNK = [[
    local call, cjson = require("spec.support.call"), require("cjson")
    local fs, http = require("spec.support.fs"), require("resty.mtls.http")
    local results = {}
    for i, options in ipairs(cjson.decode(fs.read("${options}"))) do
        -- Nobody listens on this port: what is wrong with the options comes first.
        options.scheme, options.host, options.port = "https", "localhost", 1
        local outcome = call.make(options)
        results[i] = { code = outcome.details.code, err = outcome.err,
                       hint = outcome.details.hint, report = http.diagnose(options) }
    end
    print(cjson.encode(results))
]]


for _, place in ipairs(places) do
    describe("in place of a path, in " .. place.name .. ",", function()
        for what, secret in pairs(SECRETS) do
            it(what .. " is refused and not shown", function()
                local cases, options = cases_of(secret), {}
                for i, case in ipairs(cases) do
                    options[i] = case[3]
                end
                local path = fs.temp_dir("secrets") .. "/options.json"
                fs.write(path, cjson.encode(options))
                local output, log = place.run(CHUNK, { options = path })
                local results = cjson.decode(output)
                assert.equals(#cases, #results)
                for i, case in ipairs(cases) do
                    local option, code, result = case[1], case[2], results[i]
                    assert.equals(code, result.code, option .. ": " .. result.err:sub(1, 60))
                    assert.equals(code, result.report.code)
                    if code ~= "connect_refused" then
                        assert.matches("'" .. option .. "'", result.err, 1, true)
                    end
                end
                tells_no_secret(output .. log, { lines = LINES, itself = secret })
            end)
        end
    end)
end


describe("in place of a file, resty-mtls-check", function()
    for what, secret in pairs(SECRETS) do
        -- Arguments of programs have no bytes like these.
        if what ~= "a key's DER" then
            it("does not show " .. what, function()
                for _, option in ipairs({ "--cert", "--key", "--pkcs12", "--ca", "--crl" }) do
                    local arguments = { fs.repo .. "/bin/resty-mtls-check", "localhost:1",
                                        option, secret }
                    if option == "--key" then
                        arguments[#arguments + 1] = "--cert"
                        arguments[#arguments + 1] = certs.path("client-rsa.crt")
                    end
                    for _, json in ipairs({ false, "--json" }) do
                        arguments[#arguments + 1] = json or nil
                        local result = process.run(arguments, { cwd = "/" })
                        assert.not_equals(0, result.code)
                        tells_no_secret(result.stdout .. result.stderr, { lines = LINES })
                    end
                end
            end)
        end
    end
end)
