--- Whatever goes wrong with a client certificate, neither the log nor a client is told a secret.
local apisix = require("spec.support.apisix.gateway")
local certs = require("spec.support.certs")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local PASSPHRASE = "Zq7rWk2vXn9pTb4m"

-- What is wrong with `tls`, what else is in the configuration, and what the log says of it.
local CASES = {
    { "client_cert = half(cert), client_key = key", "bad_certificate_pem" },
    { "client_cert = cert, client_key = half(key)", "bad_key_pem" },
    { "client_cert = cert, client_key = escaped(half(key))", "bad_key_pem" },
    { "client_cert = cert, client_key = bare(key)", "bad_key_pem" },
    { "client_cert = key, client_key = cert", "bad_certificate_pem" },
    { "client_cert = key, client_key = key", "bad_certificate_pem" },
    { "client_cert = cert, client_key = other_key", "key_mismatch" },
    { "client_cert = cert, client_key = encrypted", "key_encrypted" },
    { "client_cert = cert, client_key = encrypted, passphrase = passphrase",
      "key_passphrase_wrong" },
    { "client_cert = cert, client_key = legacy, passphrase = passphrase", "key_encrypted" },
    { "client_cert = cert, client_key = key, ca_cert = key", "bad_certificate_pem" },
    { "client_cert = cert, client_key = key, ca_cert = bare(key)", "bad_argument" },
    { "client_cert = cert, client_key = key, ca_cert = folded(bare(key))", "bad_argument" },
    { "client_cert = cert, client_key = key, server_name = '$secret://vault/1/key'",
      "no host name" },
    { "client_cert = cert, client_key = key, server_name = '$secret://vault/1/bare'",
      "no host name" },
    { "client_cert = cert, client_key = key, server_name = 'elsewhere.test'",
      "server_name_mismatch" },
    { "client_cert = cert, client_key = key, ca_cert = other_ca", "server_certificate_untrusted" },
    { "client_cert = cert, client_key = '$secret://vault/1/none'", "has no value" },
    { "client_cert = '$env://MTLS_NONE', client_key = key", "has no value" },
    { "client_cert = cert, client_key = '$secret://vault/1/half'", "bad_key_pem" },
    { "client_cert = '$secret://vault/1/key', client_key = '$secret://vault/1/key'",
      "bad_certificate_pem" },
    { "client_cert = cert, client_key = '$env://MTLS_HALF_KEY'", "bad_key_pem" },
    { "client_cert_id = 'none'", "no SSL object" },
    { "client_cert_id = 'server'", "the gateway's own listeners" },
    { "client_cert_id = 'undecryptable'", "cannot be decrypted" },
    { "client_cert_id = 'mixed'", "key_mismatch" },
    { "client_cert_id = 'half'", "bad_key_pem" },
    { "client_cert = cert, client_key = key", "connect_refused",
      "uri = 'https://localhost:${down}/ask'" },
    { "client_cert = cert, client_key = key", "dns_failed", "uri = 'https://nowhere.test/ask'" },
    { "client_cert = cert, client_key = key", "read_timeout",
      "uri = 'https://localhost:${service}/slow', timeout = 100" },
    { "client_cert = cert, client_key = key", "bad_argument", "uri = 'https://localhost:0/'" },
}

local PRELUDE = [[
    require("resty.mtls.http").debug(true)
    local cert, key = ${pem.client-rsa.crt}, ${pem.client-rsa.key}
    local other_key, other_ca = ${pem.client-a.key}, ${pem.other-ca.crt}
    local encrypted, legacy = ${pem.client-rsa.encrypted.key}, ${pem.client-rsa.legacy.key}
    local passphrase = "]] .. PASSPHRASE .. [["

    local function half(pem)
        return pem:sub(1, math.floor(#pem / 2)) .. pem:match("\n([^\n]+\n)$")
    end
    local function escaped(pem)
        return (pem:gsub("\n", "\\n"))
    end
    local function bare(pem)
        return (pem:gsub("%-%-%-%-%-[^\n]*%-%-%-%-%-", ""):gsub("\n", ""))
    end

    local function folded(text)
        return (text:gsub(("."):rep(64), "%0\\n"))
    end

    secret.stand_in.values["$secret://vault/1/half"] = half(key)
    secret.stand_in.values["$secret://vault/1/key"] = key
    secret.stand_in.values["$secret://vault/1/bare"] = bare(${pem.client-ed25519.key})
    router.stand_in.ssls = {
        server = { type = "server", cert = cert, key = key },
        undecryptable = { type = "client", cert = cert, key = bare(key) },
        mixed = { type = "client", cert = cert, key = ssl.stand_in.encrypt(other_key) },
        half = { type = "client", cert = cert, key = ssl.stand_in.encrypt(half(key)) },
    }
]]

-- Short enough to be found where a part was quoted, long enough to be nothing else.
local WINDOW = 12


-- All pieces of that length of the lines of these texts, but for heads and labels of PEM.
local function pieces_of(texts)
    local pieces = {}
    for _, text in ipairs(texts) do
        for line in text:gmatch("[^\n]+") do
            local is_head = line:find("^%-%-%-%-%-") or line:find("^[%w-]+: ")
            for at = 1, is_head and 0 or #line - WINDOW + 1 do
                pieces[line:sub(at, at + WINDOW - 1)] = true
            end
        end
    end
    return pieces
end


-- The first line of a text that has one of these pieces.
local function line_with(text, pieces)
    for line in text:gmatch("[^\n]+") do
        for at = 1, #line - WINDOW + 1 do
            if pieces[line:sub(at, at + WINDOW - 1)] then
                return line
            end
        end
    end
    return nil
end


-- The plugins, with what a route of each has besides.
local PLUGINS = {
    forward = { "mtls-forward-auth", "" },
    degraded = { "mtls-forward-auth", "allow_degradation = true," },
    callout = { "mtls-callout", "" },
    log = { "mtls-callout", "phase = 'log'," },
}


local function routes()
    local lines = { PRELUDE }
    for name, plugin in pairs(PLUGINS) do
        for i, case in ipairs(CASES) do
            lines[#lines + 1] = ("phases.add('%s_%d', '%s', { tls = { %s }, %s %s })"):format(
                name, i, plugin[1], case[1], plugin[2],
                case[3] or "uri = 'https://localhost:${service}/ask'")
        end
    end
    return table.concat(lines, "\n")
end


-- The errors that a plugin has logged; nil if a timer was to log that many and has not yet.
local function lines_of(log, plugin, of_timer)
    local lines, from_timer = {}, 0
    for line in log:gmatch("[^\n]+") do
        if line:find("[error]", 1, true) and line:find(plugin .. ": ", 1, true) then
            lines[#lines + 1] = line
            from_timer = from_timer + (line:find("context: ngx.timer", 1, true) and 1 or 0)
        end
    end
    return (not of_timer or from_timer >= of_timer) and lines or nil
end


local function find_line(lines, phrase, request)
    for _, line in ipairs(lines) do
        if line:find(phrase, 1, true) and line:find(request, 1, true) then
            return line
        end
    end
    return nil
end


describe("at log level debug, with all that can go wrong,", function()
    local gateway
    local answers = {}

    setup(function()
        gateway = apisix.start({
            routes = routes(), vars = { down = ports.free() }, log_level = "debug",
            env = { MTLS_HALF_KEY = certs.read("client-rsa.key"):sub(1, 400):gsub("\n", "\\n") },
        })
        for name in pairs(PLUGINS) do
            for i in ipairs(CASES) do
                local response = gateway:ask("/" .. name .. "_" .. i)
                answers[name .. "_" .. i] = response
            end
        end
    end)

    teardown(function() gateway:stop() end)

    for name, plugin in pairs(PLUGINS) do
        it(plugin[1] .. " says what is wrong (" .. name .. ")", function()
            local told = process.wait_until("a line about each case", function()
                return lines_of(gateway.nginx:error_log(), plugin[1], name == "log" and #CASES)
            end)
            for i, case in ipairs(CASES) do
                -- What a timer logs names no request.
                local request = name == "log" and "" or "GET /" .. name .. "_" .. i .. " "
                assert.is_string(find_line(told, case[2], request), case[1])
                local expected = ({ forward = 403, callout = 503 })[name] or 200
                if name == "degraded" and case[2] == "bad_argument" then
                    expected = 403
                end
                assert.equals(expected, answers[name .. "_" .. i].status)
            end
        end)
    end

    it("no secret is in the log or in an answer", function()
        local texts = { gateway.nginx:error_log(), gateway.service:error_log() }
        for _, answer in pairs(answers) do
            texts[#texts + 1] = answer.body
            for name, value in pairs(answer.headers) do
                texts[#texts + 1] = name .. ": " .. value
            end
        end
        local text = table.concat(texts, "\n")
        assert.matches("[debug]", text, 1, true)
        local secrets = { PASSPHRASE }
        for _, name in ipairs({ "client-rsa.crt", "client-rsa.key", "client-rsa.encrypted.key",
                                "client-rsa.legacy.key", "client-a.key", "client-ed25519.key" }) do
            secrets[#secrets + 1] = certs.read(name)
        end
        local pieces = pieces_of(secrets)
        assert.is_nil(line_with(text, pieces))
        -- The search finds what is there.
        for _, secret in ipairs(secrets) do
            local part = (secret:match("\n([%w+/=]+)\n") or secret):sub(2, WINDOW + 1)
            assert.is_string(line_with("at " .. part .. "...", pieces))
        end
    end)
end)
