--- Keys for impostors: servers that have somebody's certificate and not its key.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

-- ECPrivateKey of RFC 5915 for P-256 in DER: its head, the private key, and curve and public key.
local HEAD = "\48\119\2\1\1\4\32"
local PRIVATE_BYTES = 32


local function parts(identity)
    local der = process.check({ "openssl", "ec", "-in", certs.path(identity .. ".key"),
                                "-outform", "DER" })
    assert(#der == 121 and der:sub(1, #HEAD) == HEAD, "not a key on P-256 in the usual form")
    local private_end = #HEAD + PRIVATE_BYTES
    return der:sub(#HEAD + 1, private_end), der:sub(private_end + 1)
end


--- A key that OpenSSL takes for the one of a certificate, since it believes the public part. It
--- signs with the private part, which is another's.
---@param victim string identity with a key on P-256
---@param impostor string identity with a key on P-256
---@return string path of a PEM file
function _M.key(victim, impostor)
    local _, public = parts(victim)
    local private = parts(impostor)
    local dir = fs.temp_dir("forged")
    fs.write(dir .. "/key.der", HEAD .. private .. public)
    process.check({ "openssl", "ec", "-inform", "DER", "-in", dir .. "/key.der",
                    "-out", dir .. "/key.pem" })
    return dir .. "/key.pem"
end


return _M
