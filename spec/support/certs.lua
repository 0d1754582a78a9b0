--- A small PKI of throw-away certificates, made with the openssl command line on demand.
---
---     certs.path("client-a.crt")      certificate, followed by the chain behind it
---     certs.path("client-a.leaf.crt") the certificate alone
---     certs.path("client-a.key")      PKCS#8, and the other forms in certs/keys.lua
---
--- What there is stands in certs/identities.lua.
local fs = require("spec.support.fs")
local identities = require("spec.support.certs.identities")
local keys = require("spec.support.certs.keys")
local process = require("spec.support.process")

local _M = {}

local dir
local made = {}

--- Passphrase of every encrypted key and PKCS#12 file.
_M.PASSPHRASE = keys.PASSPHRASE


--- Path of a file of the PKI, which is made the first time that someone asks for it.
---@param name string identity and form: "server.crt", "client-rsa.pkcs1.key"
---@return string path absolute
function _M.path(name)
    local identity, form = name:match("^([^.]+)%.(.+)$")
    assert(identities[identity], "no such identity: " .. name)
    dir = dir or fs.temp_dir("certs")
    if not made[identity] then
        _M.make(identity, identities[identity])
        made[identity] = true
    end

    local path = dir .. "/" .. name
    if not fs.exists(path) then
        keys.convert(dir .. "/" .. identity, form)
    end
    return path
end


--- Adds identities that only one spec needs.
---@param more table<string, Identity> by names that nobody has yet
function _M.add(more)
    for name, identity in pairs(more) do
        assert(not identities[name], "this identity exists: " .. name)
        identities[name] = identity
    end
end


--- Content of a file of the PKI.
---@param name string
---@return string pem
function _M.read(name)
    return assert(fs.read(_M.path(name)))
end


local function extensions(identity)
    if identity.extensions then
        return identity.extensions
    elseif identity.usage == "ca" then
        return "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
            .. "subjectKeyIdentifier=hash\n"
    end
    local lines = {
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=" .. identity.usage .. "Auth",
        "subjectKeyIdentifier=hash",
    }
    if identity.names then
        lines[#lines + 1] = "subjectAltName=" .. identity.names
    end
    return table.concat(lines, "\n") .. "\n"
end


-- `openssl ca` is the command that can set both dates; it wants a database and a configuration.
local function ca_config()
    local path = dir .. "/ca.conf"
    if not fs.exists(path) then
        fs.write(dir .. "/index.txt", "")
        fs.write(dir .. "/index.txt.attr", "unique_subject = no\n")
        fs.write(path, ([[
            [ca]
            default_ca = default
            [default]
            new_certs_dir = $DIR
            database = $DIR/index.txt
            default_md = sha256
            policy = any
            preserve = yes
            rand_serial = yes
            email_in_dn = no
            [any]
            organizationName = optional
            commonName = supplied
        ]]):gsub("%$DIR", dir))
    end
    return path
end


local function sign(path, issuer, identity)
    local argv = {
        "openssl", "ca", "-config", ca_config(), "-batch", "-notext",
        "-in", path .. ".csr", "-out", path .. ".leaf.crt",
        "-startdate", identity.from or "20200101000000Z",
        "-enddate", identity.to or "20491231000000Z",
    }
    local extension_text = extensions(identity)
    -- Without an extension file openssl makes version 1 of X.509.
    if extension_text ~= "" then
        fs.write(path .. ".ext", extension_text)
        argv[#argv + 1] = "-extfile"
        argv[#argv + 1] = path .. ".ext"
    end
    if issuer then
        argv[#argv + 1] = "-cert"
        argv[#argv + 1] = issuer .. ".leaf.crt"
        argv[#argv + 1] = "-keyfile"
        argv[#argv + 1] = issuer .. ".key"
    else
        argv[#argv + 1] = "-selfsign"
        argv[#argv + 1] = "-keyfile"
        argv[#argv + 1] = path .. ".key"
    end
    process.check(argv)
end


--- Makes a key and a certificate. For identities that only one spec needs.
---@param name string a new one
---@param identity Identity
---@return string prefix path without ".crt" and ".key"
function _M.make(name, identity)
    dir = dir or fs.temp_dir("certs")
    local issuer = identity.issuer and _M.path(identity.issuer .. ".leaf.crt"):sub(1, -10)
    local path = dir .. "/" .. name
    if identity.key_of then
        fs.write(path .. ".key", _M.read(identity.key_of .. ".key"))
    else
        keys.generate(path .. ".key", identity.key or "p256")
    end
    process.check({
        "openssl", "req", "-new", "-key", path .. ".key", "-out", path .. ".csr",
        "-subj", "/O=Example/CN=" .. (identity.common_name or name),
    })
    sign(path, issuer, identity)

    local chain = fs.read(path .. ".leaf.crt")
    -- Roots are what the other side trusts already; only intermediates have to be sent.
    if issuer and identities[identity.issuer].issuer then
        chain = chain .. fs.read(issuer .. ".crt")
    end
    fs.write(path .. ".crt", chain)
    return path
end


return _M
