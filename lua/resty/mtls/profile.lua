--- From connect options to a TLS profile: whom to trust, and as whom to appear.
--
-- The profile is cached by the options themselves. LuaJIT keeps one copy of equal strings, so that
-- looking a PEM text up compares a pointer, and an unchanged profile costs neither parsing nor
-- hashing. What nobody uses is forgotten: see cache.lua.

local bad_argument = require("resty.mtls.errors").bad_argument
local caches = require("resty.mtls.cache")
local log = require("resty.mtls.log")
local native = require("resty.mtls.native")
local openssl = require("resty.mtls.openssl")

local type = type
local unpack = unpack


local _M = {}


-- Whom a server is to be trusted by, which goes for an https proxy as well.
local trust_options = {
    "ssl_verify",
    "ssl_trusted_certificate",
    "ssl_crl",
    "ssl_min_version",
    "ssl_max_version",
    "ssl_session_reuse",
}

--- Who the client is. Those that come first are the ones that tell most profiles apart.
_M.identity_options = {
    "ssl_cert",
    "ssl_key",
    "ssl_cert_path",
    "ssl_key_path",
    "ssl_client_cert",
    "ssl_client_priv_key",
    "ssl_pkcs12",
    "ssl_key_password",
}

local profile_options = { unpack(_M.identity_options) }
profile_options[#profile_options + 1] = "ssl_pinned_pubkey"
profile_options[#profile_options + 1] = "http_version"
for i = 1, #trust_options do
    profile_options[#profile_options + 1] = trust_options[i]
end

-- These may be objects of ngx.ssl's.
local object_readers = {
    ssl_cert = openssl.certificates,
    ssl_key = openssl.private_key,
    ssl_client_cert = openssl.certificates,
    ssl_client_priv_key = openssl.private_key,
}

-- Stand for nil, NaN, and the beginning and the end of a list as table keys.
local NONE, NAN, LIST, LIST_END = {}, {}, {}, {}
-- Under this key a cache has the profile itself.
local PROFILE = {}

local defaults = {}
local profiles = caches.new()


local function warn_unverified()
    if not native.warn_unverified() then
        return
    end
    log.write("warn", "ssl_verify is false: servers are not authenticated, and what is sent can "
        .. "be read by whoever is in between (this warning is given once per process)")
end


local function option(options, name)
    local value = options[name]
    -- A C pointer to nothing equals nil, and is a mistake: no certificate would be sent.
    if type(value) == "nil" then
        return defaults[name]
    end
    return value
end


local function key_of(value)
    if type(value) == "nil" then
        return NONE
    elseif value ~= value then
        return NAN
    end
    return value
end


-- The node behind a value: a table for each value on the way, and for each item of a list.
local function follow(node, value, step)
    if type(value) ~= "table" then
        return step(node, key_of(value))
    end
    node = step(node, LIST)
    for i = 1, node and #value or 0 do
        node = node and step(node, key_of(value[i]))
    end
    return node and step(node, LIST_END)
end


local function look_up(node, key)
    return node[key]
end


local function look_up_or_add(node, key)
    local found = node[key]
    if not found then
        found = {}
        node[key] = found
    end
    return found
end


-- Only what has become a profile is remembered: options that are wrong may never repeat.
local function remember_profile(given, profile)
    caches.adds(profiles)
    local node = profiles.young
    for i = 1, #profile_options do
        node = follow(node, given[profile_options[i]], look_up_or_add)
    end
    node[PROFILE] = profile
end


-- An option's value, and the text of what came as an object of ngx.ssl's.
local function text_option(options, name)
    local value = option(options, name)
    local reader = object_readers[name]
    if reader and openssl.is_cdata(value) then
        return reader(value)
    end
    return value
end


-- Allocates nothing: this is on the way of every request.
local function known_profile(node, options)
    for i = 1, #profile_options do
        local value, err = text_option(options, profile_options[i])
        node = not err and follow(node, value, look_up)
        if not node then
            return nil
        end
    end
    return node[PROFILE]
end


local function new_profile(options)
    local given = {}
    for i = 1, #profile_options do
        local name = profile_options[i]
        local value, err = text_option(options, name)
        if err then
            return bad_argument("bad '" .. name .. "': " .. err)
        end
        given[name] = value
    end
    local profile, err, details = known_profile(profiles.old, given)
    if not profile then
        profile, err, details = native.profile(given)
    end
    if not profile then
        return nil, err, details
    end
    if given.ssl_verify == false then
        warn_unverified()
    end
    remember_profile(given, profile)
    return profile
end


--- The profile that options describe.
---@param options table see `connect` in resty.mtls.http
---@return userdata? profile
---@return string? err
---@return table? details
function _M.of(options)
    local profile = known_profile(profiles.young, options)
    if profile then
        return profile
    end
    return new_profile(options)
end


--- The options of a call that an https proxy is judged by: as the destination is.
---@param options table
---@return table trust
function _M.trust_of(options)
    local trust = {}
    for i = 1, #trust_options do
        trust[trust_options[i]] = options[trust_options[i]]
    end
    return trust
end


--- Sets what applies to every later call that does not say otherwise. Checked by the caller.
---@param name "ssl_verify"|"ssl_trusted_certificate"|"allow_keylog"
---@param value boolean|string|string[]
function _M.set_default(name, value)
    -- The caller's table may change.
    defaults[name] = type(value) == "table" and { unpack(value) } or value
    -- What the native library was told changes the profiles that it makes from now on.
    caches.clear(profiles)
end


return _M
