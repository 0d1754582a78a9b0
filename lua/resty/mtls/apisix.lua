--- What plugins of Apache APISIX need to speak mutual TLS: the gateway's resolver and trust, the
--- schema of a client certificate, and its way from a plugin's configuration to `connect`.
--
-- For APISIX 3.10 or later.

local core = require("apisix.core")
local http = require("resty.mtls.http")
local native = require("resty.mtls.native")
local router = require("apisix.router")
local secret = require("apisix.secret")
local ssl = require("apisix.ssl")

local byte = string.byte
local find = string.find
local format = string.format
local gsub = string.gsub
local pairs = pairs
local rep = string.rep
local setmetatable = setmetatable
local sub = string.sub
local type = type


local _M = {}


-- Up to 3.16, APISIX holds references to secrets against the schema, where they would be too short
-- for a certificate.
local REFERENCE = { pattern = [[^\$([sS][eE][cC][rR][eE][tT]|[eE][nN][vV])://]] }
-- The validator quotes what does not match a pattern, but for one of several.
local HOST = { pattern = [[^\[?[0-9a-zA-Z._:-]+\]?$]], maxLength = 253 }
local MAX_PEM_LENGTH = 65536
-- Bytes: what comes back from a server that a plugin asks is a header or a small document.
local MAX_BODY_SIZE = 1024 * 1024
-- One that no host name has (RFC 1035, section 2.3.4).
local LONG_LABEL = rep("[^.:]", 64)
-- Characters of a reference that an error shows.
local MAX_SHOWN = 128


local function pem_schema(min_length, description)
    return {
        description = description,
        type = "string",
        maxLength = MAX_PEM_LENGTH,
        anyOf = {
            { minLength = min_length },
            REFERENCE,
        },
    }
end


--- Schema of the options of TLS. The client certificate is described as that of an upstream is.
_M.tls_schema = {
    type = "object",
    properties = {
        client_cert = pem_schema(128, "client certificate with its chain behind it, PEM"),
        client_key = pem_schema(64, "private key of the client certificate, PEM"),
        client_cert_id = core.schema.id_schema,
        ca_cert = {
            description = "whom to trust: PEM, the path of a file or of a folder, or \"system\"",
            type = "string",
            minLength = 1,
        },
        ssl_verify = {
            description = "whether to verify the server's certificate",
            type = "boolean",
        },
        server_name = {
            description = "name sent as SNI and looked for in the server's certificate",
            type = "string",
            anyOf = { HOST, REFERENCE },
        },
        passphrase = {
            description = "passphrase of client_key",
            type = "string",
            minLength = 1,
        },
    },
    dependencies = {
        client_cert = { required = { "client_key" } },
        client_key = { required = { "client_cert" } },
        client_cert_id = { ["not"] = { required = { "client_cert", "client_key" } } },
        passphrase = { required = { "client_key" } },
    },
    additionalProperties = false,
}

--- Fields of a plugin that has `tls_schema` under `tls`, for APISIX to encrypt where it keeps them.
_M.encrypt_fields = { "tls.client_key", "tls.passphrase" }


-- Fields that may be references to secrets.
local TLS_FIELDS = { "client_cert", "client_key", "ca_cert", "server_name", "passphrase" }
local SSL_OBJECT_FIELDS = { "cert", "key" }

-- Options by the `tls` of a plugin's configuration, together with what they were made of. APISIX
-- keeps the table as long as the configuration, and this lives no longer.
local known = setmetatable({}, { __mode = "k" })

local is_set_up = false


---@class resty.mtls.apisix.tls
---@field client_cert? string
---@field client_key? string
---@field client_cert_id? string|integer id of an SSL object of type client
---@field ca_cert? string
---@field ssl_verify? boolean
---@field server_name? string
---@field passphrase? string

---@class resty.mtls.apisix.call
---@field tls? resty.mtls.apisix.tls
---@field ssl_verify? boolean for a `tls` that has none
---@field timeout? integer milliseconds for all of a call, which has no bound without it
---@field keepalive? boolean
---@field keepalive_timeout? integer
---@field keepalive_pool? integer


--- Makes the library look names up as APISIX does, and trust whom `ssl_trusted_certificate` of
--- config.yaml names, unless `set_defaults` has already said whom. It has an effect once in each
--- worker and may be called at any time, best in the `init` of a plugin.
---@return true? ok
---@return string? err
function _M.setup()
    if is_set_up then
        return true
    end
    local trusted = core.table.try_read_attr(core.config.local_conf(), "apisix", "ssl",
        "ssl_trusted_certificate")
    -- A hook at start-up may have said it for the whole gateway, and its list may be longer.
    if trusted and native.defaults().ssl_trusted_certificate == nil then
        local ok, err = http.set_defaults({ ssl_trusted_certificate = trusted })
        if not ok then
            return nil, "apisix.ssl.ssl_trusted_certificate in config.yaml: " .. err
        end
    end
    local ok, err = http.set_resolver(core.resolver.parse_domain)
    if not ok then
        return nil, err
    end
    is_set_up = true
    return true
end


local function is_reference(value)
    if type(value) ~= "string" or byte(value, 1) ~= 36 then -- "$"
        return false
    end
    return find(value, "^%$[sS][eE][cC][rR][eE][tT]://") ~= nil
        or find(value, "^%$[eE][nN][vV]://") ~= nil
end


local function first_reference(values, fields)
    for i = 1, #fields do
        if is_reference(values[fields[i]]) then
            return fields[i]
        end
    end
    return nil
end


-- The values with secrets in place of references. Newer versions of APISIX have replaced those of
-- a plugin by now, but not those of SSL objects.
local function resolve(values, fields)
    if not first_reference(values, fields) then
        return values
    end
    -- The last two are the key of the cache, up to APISIX 3.14; later ones cache each reference.
    local resolved = secret.fetch_secrets(values, true, values, "")
    local field = first_reference(resolved, fields)
    if field then
        return nil, format("%s refers to %s, which has no value: check that this secret exists "
            .. "and that APISIX can read it; a variable of $env:// has to be in the environment "
            .. "that APISIX was started in", field, sub(resolved[field], 1, MAX_SHOWN))
    end
    return resolved
end


local function ssl_object(id)
    local object = router.router_ssl and router.router_ssl.get_by_id(id)
    if not object then
        return nil, format("tls.client_cert_id: there is no SSL object '%s': create it, with "
            .. "\"type\": \"client\", or correct the id", id)
    end
    if object.type ~= "client" then
        return nil, format("tls.client_cert_id: SSL object '%s' is for the gateway's own "
            .. "listeners: name one that has \"type\": \"client\"", id)
    end
    local resolved, err = resolve(object, SSL_OBJECT_FIELDS)
    if not resolved then
        return nil, format("SSL object '%s': %s", id, err)
    end
    return resolved
end


-- Environment variables and many stores of secrets have no line ends, so that people write \n.
-- PEM has no other use for a backslash, and paths begin with a slash.
local function unescape(pem)
    if pem and byte(pem, 1) ~= 47 and find(pem, "\\", 1, true) then
        return (gsub(pem, "\\[rn]", "\n"))
    end
    return pem
end


local function decrypted(key, id)
    local pem = ssl.aes_decrypt_pkey(key)
    -- Without a keyring to try, APISIX returns what it was given.
    if not pem or not find(pem, "-----BEGIN", 1, true) then
        return nil, format("tls.client_cert_id: the key of SSL object '%s' cannot be decrypted: "
            .. "check that data_encryption.keyring in config.yaml has the key that it was saved "
            .. "with, and save it again", id)
    end
    return pem
end


-- A secret that was put here by mistake is told from a name by its characters and long labels, so
-- that no error quotes it.
local function is_host(name)
    return #name <= 253 and find(name, "^[%w._:%[%]-]+$")
        and not find(name, LONG_LABEL)
end


local function is_current(entry, cert, key, tls)
    return entry.cert == cert and entry.key == key and entry.ca_cert == tls.ca_cert
        and entry.ssl_verify == tls.ssl_verify and entry.server_name == tls.server_name
        and entry.passphrase == tls.passphrase
end


local function new_entry(cert, key, tls)
    if tls.server_name and not is_host(tls.server_name) then
        return nil, "tls.server_name is no host name"
    end
    local pem = key
    if tls.client_cert_id then
        local err
        pem, err = decrypted(key, tls.client_cert_id)
        if not pem then
            return nil, err
        end
    end
    return {
        cert = cert,
        key = key,
        ca_cert = tls.ca_cert,
        ssl_verify = tls.ssl_verify,
        server_name = tls.server_name,
        passphrase = tls.passphrase,
        options = {
            ssl_cert = unescape(cert),
            ssl_key = unescape(pem),
            ssl_key_password = tls.passphrase,
            ssl_trusted_certificate = unescape(tls.ca_cert),
            ssl_verify = tls.ssl_verify,
            ssl_server_name = tls.server_name,
        },
    }
end


--- The options of `connect` that a plugin's `tls` stands for. References to secrets and the id of
--- an SSL object are followed with each call; what they lead to is worked on only if it changed.
---@param tls resty.mtls.apisix.tls? the table that APISIX has in the configuration, not a copy
---@return resty.mtls.connect_options? options not to be changed: the next call may return the same
---@return string? err says what to do, and has no secret in it
function _M.tls_options(tls)
    if not tls then
        return {}
    end
    local given, err = resolve(tls, TLS_FIELDS)
    if not given then
        return nil, "tls." .. err
    end
    local cert, key = given.client_cert, given.client_key
    if given.client_cert_id then
        local object
        object, err = ssl_object(given.client_cert_id)
        if not object then
            return nil, err
        end
        cert, key = object.cert, object.key
    end

    local entry = known[tls]
    if not entry or not is_current(entry, cert, key, given) then
        entry, err = new_entry(cert, key, given)
        if not entry then
            return nil, err
        end
        known[tls] = entry
    end
    return entry.options
end


-- What hints say of options that plugins do not have, or have under other names.
local PHRASES = {
    ["raise deadline"] = "raise timeout",
    ["raise max_body_size if the server is right to send so much"] = "have the server send less",
    ["over max_body_size"] = "over " .. MAX_BODY_SIZE .. " bytes",
    ["the resolver given to set_resolver"] = "APISIX's resolver",
}


-- An error in terms of a plugin's configuration.
local function explain(err, details, tls)
    local cert = tls.client_cert_id and "tls.client_cert_id" or "tls.client_cert"
    local names = {
        ssl_cert = cert,
        ssl_key = tls.client_cert_id and cert or "tls.client_key",
        ssl_key_password = "tls.passphrase",
        ssl_trusted_certificate = tls.ca_cert and "tls.ca_cert"
            or "apisix.ssl.ssl_trusted_certificate",
        ssl_verify = "tls.ssl_verify",
        ssl_server_name = "tls.server_name",
    }
    local text = format("%s (%s): %s", err, details.code, details.hint)
    for phrase, replacement in pairs(PHRASES) do
        text = gsub(text, phrase, replacement)
    end
    return (gsub(text, "ssl_[%w_]+", names))
end


--- Makes one request, as the configuration of a plugin says.
---@param conf resty.mtls.apisix.call
---@param uri string
---@param params resty.mtls.request_params gets further options
---@return resty.mtls.response? res with `body`
---@return string? err with what to do, for a log
---@return string? code of the error: "bad_argument" if there can be no such request, as with a line
--- end in a header, and nil if already `tls` leads nowhere
function _M.request(conf, uri, params)
    local options, err = _M.tls_options(conf.tls)
    if not options then
        return nil, err
    end
    params.ssl_verify = conf.ssl_verify
    for name, value in pairs(options) do
        params[name] = value
    end
    params.deadline = conf.timeout
    params.max_body_size = MAX_BODY_SIZE
    params.keepalive = conf.keepalive
    params.keepalive_timeout = conf.keepalive_timeout
    params.keepalive_pool = conf.keepalive_pool

    local res, details
    res, err, details = http.new():request_uri(uri, params)
    if not res then
        return nil, explain(err, details, conf.tls or {}), details.code
    end
    return res
end


return _M
