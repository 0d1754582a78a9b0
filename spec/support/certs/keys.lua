--- Private keys of the specs' PKI and the forms that they come in.
local process = require("spec.support.process")

local _M = {}

_M.PASSPHRASE = "correct horse"

local ALGORITHMS = {
    p256 = { "EC", "-pkeyopt", "ec_paramgen_curve:P-256" },
    p384 = { "EC", "-pkeyopt", "ec_paramgen_curve:P-384" },
    p521 = { "EC", "-pkeyopt", "ec_paramgen_curve:P-521" },
    rsa1024 = { "RSA", "-pkeyopt", "rsa_keygen_bits:1024" },
    rsa2048 = { "RSA", "-pkeyopt", "rsa_keygen_bits:2048" },
    ed25519 = { "ED25519" },
}

local PASS = "pass:" .. _M.PASSPHRASE

-- Arguments of openssl for each form; the input and the output file are added behind them.
local FORMS = {
    ["pkcs8.key"] = { "pkcs8", "-topk8", "-nocrypt" },
    -- PBES2, with PBKDF2 and HMAC-SHA256 unless told otherwise
    ["encrypted.key"] = { "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", PASS },
    ["aes128-sha1.key"] = { "pkcs8", "-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1",
                            "-passout", PASS },
    ["aes192-sha512.key"] = { "pkcs8", "-topk8", "-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA512",
                              "-passout", PASS },
    ["des3.key"] = { "pkcs8", "-topk8", "-v2", "des3", "-passout", PASS },
    ["scrypt.key"] = { "pkcs8", "-topk8", "-scrypt", "-passout", PASS },
    -- PBES1, which is older
    ["pbes1.key"] = { "pkcs8", "-topk8", "-v1", "PBE-SHA1-3DES", "-passout", PASS },
    ["encrypted.key.der"] = { "pkcs8", "-topk8", "-outform", "DER", "-passout", PASS },
    -- "BEGIN RSA PRIVATE KEY" and "BEGIN EC PRIVATE KEY"
    ["pkcs1.key"] = { "rsa", "-traditional" },
    ["sec1.key"] = { "ec" },
    -- The same two with a "Proc-Type: 4,ENCRYPTED" head.
    ["legacy.key"] = { "pkey", "-traditional", "-aes128", "-passout", PASS },
    ["key.der"] = { "pkcs8", "-topk8", "-nocrypt", "-outform", "DER" },
}


--- Makes a key in PKCS#8 form.
---@param path string
---@param algorithm "p256"|"p384"|"p521"|"rsa1024"|"rsa2048"|"ed25519"
function _M.generate(path, algorithm)
    process.check({ "openssl", "genpkey", "-out", path, "-algorithm",
                    unpack(ALGORITHMS[algorithm]) })
end


--- Makes another form of what `<prefix>.key` and `<prefix>.crt` hold.
---@param prefix string
---@param form string a key of FORMS, or "crt.der"
function _M.convert(prefix, form)
    local output = prefix .. "." .. form
    if form == "crt.der" then
        process.check({ "openssl", "x509", "-in", prefix .. ".leaf.crt", "-outform", "DER",
                        "-out", output })
        return
    end

    local arguments = assert(FORMS[form], "no such form: " .. form)
    local argv = { "openssl", unpack(arguments) }
    for _, argument in ipairs({ "-in", prefix .. ".key", "-out", output }) do
        argv[#argv + 1] = argument
    end
    process.check(argv)
end


return _M
