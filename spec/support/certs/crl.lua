--- Lists of revoked certificates (CRLs) of the CAs in the specs' PKI.
---
---     crl.path("ca")                              nobody is revoked
---     crl.path("ca", { revoked = { "server" } })
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

local CONFIG = [[
    [ca]
    default_ca = default
    [default]
    database = $DIR/index.txt
    default_md = sha256
    $EXTENSIONS
    [extensions]
    authorityKeyIdentifier = keyid
]]

-- Without extensions openssl makes version 1.
local EXTENSIONS = [[
    crlnumber = $DIR/number
    crl_extensions = extensions
]]

---@class CrlOptions
---@field revoked string[]? names of identities
---@field from string? YYYYMMDDHHMMSSZ
---@field to string? when the next one is due
---@field version 1|2|nil of the format, 2 unless given


-- `openssl ca` wants a database. Each list has its own, for only some of them revoke somebody.
local function configure(dir, version)
    local extensions = version == 1 and "" or EXTENSIONS
    fs.write(dir .. "/index.txt", "")
    fs.write(dir .. "/number", "01\n")
    fs.write(dir .. "/ca.conf", (CONFIG:gsub("%$EXTENSIONS", extensions):gsub("%$DIR", dir)))
end


--- Makes a list.
---@param issuer string name of an identity
---@param opts CrlOptions?
---@return string path of a PEM file
function _M.path(issuer, opts)
    opts = opts or {}
    local dir = fs.temp_dir("crl")
    configure(dir, opts.version)

    local function ca(...)
        process.check({
            "openssl", "ca", "-config", dir .. "/ca.conf", "-batch",
            "-cert", certs.path(issuer .. ".leaf.crt"), "-keyfile", certs.path(issuer .. ".key"),
            ...
        })
    end

    for _, name in ipairs(opts.revoked or {}) do
        ca("-revoke", certs.path(name .. ".leaf.crt"))
    end
    ca("-gencrl", "-out", dir .. "/crl.pem", "-crl_lastupdate", opts.from or "20200101000000Z",
       "-crl_nextupdate", opts.to or "20491231000000Z")
    return dir .. "/crl.pem"
end


--- Puts several into one file.
---@param ... string paths
---@return string path
function _M.join(...)
    local texts = {}
    for i, path in ipairs({ ... }) do
        texts[i] = assert(fs.read(path))
    end
    local joined = fs.temp_dir("crls") .. "/crls.pem"
    fs.write(joined, table.concat(texts))
    return joined
end


return _M
