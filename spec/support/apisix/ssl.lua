--- Stand-in for apisix.ssl, with a cipher that keeps nobody out.
--
-- `stand_in` is for the specs: `encrypt(pem)` makes what `aes_decrypt_pkey` takes; `decrypted`
-- counts its calls; with `has_keyring = false` it returns what it was given, as APISIX does then.

local strict = require("apisix.strict")

local PREFIX = "encrypted:"
local stand_in = { decrypted = 0, has_keyring = true }


function stand_in.encrypt(pem)
    return PREFIX .. ngx.encode_base64(pem)
end


local function aes_decrypt_pkey(key)
    stand_in.decrypted = stand_in.decrypted + 1
    if key:sub(1, 3) == "---" or not stand_in.has_keyring then
        return key
    end
    if key:sub(1, #PREFIX) ~= PREFIX then
        return nil, "decrypt ssl key failed"
    end
    return ngx.decode_base64(key:sub(#PREFIX + 1))
end


return strict("apisix.ssl", { stand_in = stand_in, aes_decrypt_pkey = aes_decrypt_pkey })
