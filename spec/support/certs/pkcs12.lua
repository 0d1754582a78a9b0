--- PKCS#12 files (.p12, .pfx): certificate, chain and key of an identity of the specs' PKI in one.
---
---     pkcs12.path("client-chained")                       as OpenSSL 3 makes them, with the chain
---     pkcs12.path("client-a", { arguments = { "-legacy" } })
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

---@class Pkcs12Options
---@field password string? certs.PASSPHRASE unless given
---@field certificates string? file of the PKI whose first certificate is the key's: "<name>.crt"
---unless given
---@field arguments string[]? further ones of `openssl pkcs12`


--- Makes a file.
---@param name string identity
---@param opts Pkcs12Options?
---@return string path
function _M.path(name, opts)
    opts = opts or {}
    local path = fs.temp_dir("pkcs12") .. "/" .. name .. ".p12"
    process.check({
        "openssl", "pkcs12", "-export", "-out", path, "-inkey", certs.path(name .. ".key"),
        "-in", certs.path(opts.certificates or name .. ".crt"),
        "-passout", "pass:" .. (opts.password or certs.PASSPHRASE), unpack(opts.arguments or {}),
    })
    return path
end


--- The same as bytes.
---@param name string identity
---@param opts Pkcs12Options?
---@return string der
function _M.bytes(name, opts)
    return assert(fs.read(_M.path(name, opts)))
end


return _M
