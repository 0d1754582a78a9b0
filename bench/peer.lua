--- The library that ours is compared with: a checkout of lua-resty-http, of which there are two.
---
--- * `ssl_client_cert` is an option, as cdata: the one that OpenResty users know. To find its pool
---   it takes the certificate apart and hashes it for each call. That is measured as it is, and
---   once more with the hash remembered, in a temporary copy that this file patches.
--- * `ssl_cert_path` is an option: the fork of API gateways. It hands the certificate to
---   `sock:tlshandshake`, which a patched nginx has. A stock nginx does not, and the fork then
---   connects without any; so the harness puts a certificate on the cosocket that it connects with.
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

---@class Peer
---@field root string folder of a copy of its Lua files
---@field lua_path string patterns for what it needs
---@field memoised string? the same with the hash remembered
---@field version string
---@field facts { name: string, value: string }[] what readers of figures have to know
---@field own_certificate boolean whether connect takes the certificate

local MEMO = {
    { "local cert_hash(%s+)if ssl and ssl_client_cert and ssl_client_priv_key then",
      "local cert_hash = ssl_client_cert and bench_hashes[ssl_client_cert]%1"
      .. "if not cert_hash and ssl and ssl_client_cert and ssl_client_priv_key then" },
    { "cert_hash = to_hex%(cert_hash%)",
      "%0\n        bench_hashes[ssl_client_cert] = cert_hash" },
}


-- LuaJIT asks no table for its length unless it was built with extensions of Lua 5.2. OpenResty's
-- was, Debian's was not, and there the peer finds no certificate in its chain.
local REPAIR = {
    { "#cert_chain < 1", "cert_chain:count() < 1" },
}


local function has_length_metamethod()
    return #setmetatable({}, { __len = function() return 1 end }) == 1
end


-- Checkouts have their Lua files in lib/; what is installed has not.
local function lua_folder(path, file)
    for _, folder in ipairs({ path .. "/lib", path }) do
        if fs.exists(folder .. "/" .. file) then
            return folder
        end
    end
end


local function commit(path)
    local result = process.run({ "git", "-C", path, "rev-parse", "--short", "HEAD" })
    return result.code == 0 and ", commit " .. result.stdout:match("%w+") or ""
end


-- Applies all of some patches, or none.
local function patch(root, patches, prefix)
    local path = root .. "/resty/http_connect.lua"
    local text = fs.read(path)
    for _, change in ipairs(patches) do
        local patched, count = text:gsub(change[1], change[2])
        if count ~= 1 then
            return false
        end
        text = patched
    end
    fs.write(path, (prefix or "") .. text)
    return true
end


-- A copy in which what connect works out of a certificate is remembered.
local function memoise(root)
    local copy = fs.temp_dir("memoised")
    process.check({ "cp", "-r", root .. "/.", copy })
    if patch(copy, MEMO, "local bench_hashes = {}\n") then
        return copy
    end
    return nil, "the code that hashes the certificate is not where it was expected"
end


local function dependency(checkouts, file, name)
    for _, checkout in ipairs(checkouts) do
        local folder = lua_folder(checkout, file)
        if folder then
            return folder .. "/?.lua;" .. folder .. "/?/init.lua;"
        end
    end
    error(string.format("the peer needs %s (%s): name a checkout with PEER_DEPS=PATH[:PATH…]",
                        name, file), 0)
end


--- Looks at a checkout.
---@param path string
---@param checkouts string[] of what it needs
---@return Peer
function _M.find(path, checkouts)
    local folder = lua_folder(path, "resty/http.lua")
    if not folder then
        error("no lib/resty/http.lua in PEER=" .. path, 0)
    end
    local root = fs.temp_dir("peer")
    process.check({ "cp", "-r", folder .. "/.", root })
    local connect = fs.read(root .. "/resty/http_connect.lua") or ""
    local own_certificate = connect:find("ssl_client_cert", 1, true) ~= nil

    local peer = { root = root, lua_path = "", facts = {} }
    if own_certificate then
        peer.lua_path = dependency(checkouts, "resty/openssl/version.lua", "lua-resty-openssl")
            .. dependency(checkouts, "resty/string.lua", "lua-resty-string")
    end
    local function tell(name, value)
        peer.facts[#peer.facts + 1] = { name = name, value = value }
    end

    local number = fs.read(root .. "/resty/http.lua"):match("_VERSION = ['\"]([^'\"]+)") or "?"
    tell("peer", "lua-resty-http " .. number .. commit(path))
    if not own_certificate then
        tell("its certificate", "put on its cosocket by the harness: this nginx lacks tlshandshake")
        tell("its digest", "it has none: there is no second baseline")
        return peer
    end
    if not has_length_metamethod() then
        tell("its repair", patch(root, REPAIR) and "#chain is chain:count(), for this LuaJIT"
            or "could not be applied: it may find no certificate")
    end
    local err
    peer.memoised, err = memoise(root)
    if err then
        tell("its digest", err .. ": there is no second baseline")
    end
    return peer
end


return _M
