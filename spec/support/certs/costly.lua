--- Encrypted keys and PKCS#12 files that name any price for trying a passphrase. What they hold is
--- not a key, so that no passphrase is the right one.
---
---     costly.key({ iterations = 4294967295 })                PBKDF2
---     costly.key({ cost = 2 ^ 20, block = 8, lanes = 1 })    scrypt
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local mime = require("mime")
local plain = require("spec.support.plain")
local process = require("spec.support.process")

local _M = {}

---@class Price
---@field iterations integer? of PBKDF2; scrypt unless given
---@field cost integer? of scrypt, as the other two
---@field block integer?
---@field lanes integer?

-- For `openssl asn1parse -genconf`: EncryptedPrivateKeyInfo (RFC 5958, 3) by PBES2 (RFC 8018, A.4),
-- and a PKCS#12 file without a MAC that has it for its only content (RFC 7292, 4).
local CONFIG = [[
    asn1 = SEQUENCE:$TOP

    [pkcs12]
    version = INTEGER:3
    content = SEQUENCE:safes_info
    [safes_info]
    type = OID:pkcs7-data
    content = EXPLICIT:0,OCTWRAP,SEQUENCE:safes
    [safes]
    only = SEQUENCE:bags_info
    [bags_info]
    type = OID:pkcs7-data
    content = EXPLICIT:0,OCTWRAP,SEQUENCE:bags
    [bags]
    only = SEQUENCE:bag
    [bag]
    type = OID:1.2.840.113549.1.12.10.1.2
    content = EXPLICIT:0,SEQUENCE:key

    [key]
    algorithm = SEQUENCE:pbes2
    encrypted = FORMAT:HEX,OCTETSTRING:$BLOCKS
    [pbes2]
    name = OID:PBES2
    parameters = SEQUENCE:parameters
    [parameters]
    derivation = SEQUENCE:$DERIVATION
    cipher = SEQUENCE:cipher
    [cipher]
    name = OID:aes-256-cbc
    vector = FORMAT:HEX,OCTETSTRING:$BLOCK
    [pbkdf2]
    name = OID:PBKDF2
    parameters = SEQUENCE:pbkdf2_parameters
    [pbkdf2_parameters]
    salt = FORMAT:ASCII,OCTETSTRING:saltsalt
    iterations = INTEGER:$ITERATIONS
    prf = SEQUENCE:prf
    [prf]
    name = OID:hmacWithSHA256
    parameters = NULL
    [scrypt]
    name = OID:1.3.6.1.4.1.11591.4.11
    parameters = SEQUENCE:scrypt_parameters
    [scrypt_parameters]
    salt = FORMAT:ASCII,OCTETSTRING:saltsalt
    cost = INTEGER:$COST
    block = INTEGER:$SIZE
    lanes = INTEGER:$LANES
]]

local BLOCK = "00112233445566778899aabbccddeeff"


local function whole(number)
    return ("%.0f"):format(number or 1)
end


local function make(top, price)
    local dir = fs.temp_dir("costly")
    fs.write(dir .. "/asn1.conf", (CONFIG:gsub("%$([A-Z0-9]+)", {
        TOP = top, DERIVATION = price.iterations and "pbkdf2" or "scrypt",
        ITERATIONS = whole(price.iterations), COST = whole(price.cost),
        SIZE = whole(price.block), LANES = whole(price.lanes),
        BLOCK = BLOCK, BLOCKS = BLOCK:rep(4),
    })))
    process.check({ "openssl", "asn1parse", "-genconf", dir .. "/asn1.conf", "-noout",
                    "-out", dir .. "/der" })
    return assert(fs.read(dir .. "/der"))
end


--- A key.
---@param price Price
---@return string pem
function _M.key(price)
    local base64 = mime.b64(make("key", price)):gsub(("."):rep(64), "%0\n")
    return "-----BEGIN ENCRYPTED PRIVATE KEY-----\n" .. base64
        .. "\n-----END ENCRYPTED PRIVATE KEY-----\n"
end


--- A PKCS#12 file.
---@param price Price
---@return string der
function _M.pkcs12(price)
    return make("pkcs12", price)
end


--- What comes of a call with each of these files: a line with the code and the message. The calls
--- are made in a process of their own, which would not outlive a try at some prices.
---@param option "ssl_key_path"|"ssl_pkcs12"
---@param contents string[] of the files
---@return string[] lines
function _M.refusals(option, contents)
    local dir = fs.temp_dir("costly")
    for i, content in ipairs(contents) do
        fs.write(dir .. "/" .. i, content)
    end
    local output = plain.run_lua([[
        local call = require("spec.support.call")
        for i = 1, ${count} do
            -- Nobody listens on this port: what is wrong with an identity comes first.
            local outcome = call.make({
                scheme = "https", host = "localhost", port = 1, ssl_key_password = "wrong",
                ssl_cert_path = ${certificate}, ["${option}"] = "${dir}/" .. i,
            })
            print(outcome.details.code .. ": " .. outcome.err)
        end
    ]], { vars = {
        count = #contents, option = option, dir = dir,
        certificate = option == "ssl_pkcs12" and "nil"
            or '"' .. certs.path("client-a.crt") .. '"',
    } })
    local lines = {}
    for line in output:gmatch("[^\n]+") do
        lines[#lines + 1] = line
    end
    assert(#lines == #contents, output)
    return lines
end


return _M
