--- Pins of public keys, as curl and `ssl_pinned_pubkey` have them.
local certs = require("spec.support.certs")
local mime = require("mime")
local process = require("spec.support.process")


--- The pin of an identity's key: "sha256//BASE64".
---@param identity string
---@return string
local function pin(identity)
    local pem = process.check({ "openssl", "x509", "-noout", "-pubkey",
                                "-in", certs.path(identity .. ".leaf.crt") })
    local der = process.check({ "openssl", "pkey", "-pubin", "-outform", "DER" }, { stdin = pem })
    local digest = process.check({ "openssl", "dgst", "-sha256", "-binary" }, { stdin = der })
    return "sha256//" .. mime.b64(digest)
end


return { of = pin }
