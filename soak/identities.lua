--- Who calls, in every form that an identity can be given in. The driver chooses among them.
local _M = {}

---@class Who
---@field name string
---@field weight integer
---@field subjects table<string, boolean> as whom the server may see it
---@field options table? of `connect`; in the gateway only

local function subjects(...)
    local set = {}
    for _, name in ipairs({ ... }) do
        set["CN=" .. name .. ",O=Example"] = true
    end
    return set
end

---@type Who[]
_M.list = {
    { name = "text a", weight = 4, subjects = subjects("client-a") },
    { name = "text b", weight = 4, subjects = subjects("client-b") },
    { name = "files", weight = 2, subjects = subjects("client-p384") },
    { name = "other names", weight = 1, subjects = subjects("client-rsa") },
    { name = "cdata", weight = 2, subjects = subjects("client-ed25519") },
    { name = "pkcs12", weight = 2, subjects = subjects("client-chained") },
    { name = "encrypted", weight = 1, subjects = subjects("client-chained-p384") },
    { name = "rotating", weight = 4, subjects = subjects("rotating-a", "rotating-b") },
    { name = "nobody", weight = 2, subjects = { [""] = true } },
}

_M.by_name = {}
for _, who in ipairs(_M.list) do
    _M.by_name[who.name] = who
end


--- For init_by_lua of the gateway: from files to options.
---@param settings table see servers.lua
function _M.set_up(settings)
    local pem = settings.identities
    local ssl = require("ngx.ssl")
    local certificate = assert(ssl.parse_pem_cert(pem["client-ed25519"].cert))
    local key = assert(ssl.parse_pem_priv_key(pem["client-ed25519"].key))

    local function text(name)
        return { ssl_cert = pem[name].cert, ssl_key = pem[name].key }
    end
    local options = {
        ["text a"] = text("client-a"),
        ["text b"] = text("client-b"),
        ["files"] = { ssl_cert_path = settings.files.cert, ssl_key_path = settings.files.key },
        ["other names"] = { ssl_client_cert = pem["client-rsa"].cert,
                            ssl_client_priv_key = pem["client-rsa"].key },
        ["cdata"] = { ssl_cert = certificate, ssl_key = key },
        ["pkcs12"] = { ssl_pkcs12 = settings.files.pkcs12, ssl_key_password = settings.passphrase },
        ["encrypted"] = { ssl_cert = pem["client-chained-p384"].cert,
                          ssl_key = pem["client-chained-p384"].encrypted,
                          ssl_key_password = settings.passphrase },
        ["rotating"] = { ssl_cert_path = settings.files.rotating,
                         ssl_key_path = settings.files.rotating },
        ["nobody"] = {},
    }
    for name, given in pairs(options) do
        _M.by_name[name].options = given
    end
end


return _M
