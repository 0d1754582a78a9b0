--- Calls with a client identity in plain luajit and inside nginx, and what every refusal owes.
local assert = require("luassert")
local call = require("spec.support.call")
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local upstream = require("spec.support.nginx.upstream")

local _M = {}


--- Connect options with an identity, to a server on localhost.
---@param port integer
---@param identity table options that name the identity; further ones too
---@return table options
function _M.options_for(port, identity)
    local options = {
        scheme = "https", host = "localhost", port = port,
        ssl_trusted_certificate = certs.path("ca.crt"), request = { path = "/echo" },
    }
    for name, value in pairs(identity) do
        options[name] = value
    end
    return options
end


--- The options that give an identity as text.
---@param name string
---@param key_form string? ".key" unless given
---@param password string?
---@return table identity
function _M.text_of(name, key_form, password)
    return {
        ssl_cert = certs.read(name .. ".crt"),
        ssl_key = certs.read(name .. (key_form or ".key")),
        ssl_key_password = password,
    }
end


--- The outcomes of the same call in plain luajit and inside nginx.
---@param gateway Gateway
---@param port integer
---@param identity table
---@return Outcome[]
function _M.outcomes(gateway, port, identity)
    local options = _M.options_for(port, identity)
    return { call.make(options), call.inside(gateway, options) }
end


--- What the upstream saw of both calls. It has to accept the certificate.
---@param gateway Gateway
---@param port integer
---@param identity table
---@return table<string, string>[] seen see upstream.parse
function _M.seen(gateway, port, identity)
    local seen = {}
    for i, outcome in ipairs(_M.outcomes(gateway, port, identity)) do
        assert.equals("done", outcome.at, outcome.err)
        seen[i] = upstream.parse(outcome.body)
        assert.equals("SUCCESS", seen[i].verify)
    end
    return seen
end


--- Both calls are seen as made by that identity.
---@param gateway Gateway
---@param port integer
---@param name string
---@param identity table
function _M.assert_authenticates(gateway, port, name, identity)
    for _, seen in ipairs(_M.seen(gateway, port, identity)) do
        assert.equals("CN=" .. name .. ",O=Example", seen.subject)
    end
end


-- What an option holds: its value, or the file that it names. Messages may quote the path itself.
local function content_of(value)
    if value:sub(1, 1) == "/" then
        return fs.read(value) or ""
    end
    return value
end


-- Parts of what the options hold, long enough to be found by nothing but a quotation.
local function secrets_of(identity)
    local secrets = {}
    for name, value in pairs(identity) do
        if name == "ssl_key_password" and value ~= "" then
            secrets[#secrets + 1] = tostring(value)
        elseif type(value) == "string" then
            for line in content_of(value):gmatch("[^\r\n]+") do
                local is_head = line:find("-----", 1, true) or line:find("^[%w-]+: ")
                for at = 1, is_head and 0 or #line - 15, 8 do
                    secrets[#secrets + 1] = line:sub(at, at + 15)
                end
            end
        end
    end
    return secrets
end


--- No password, PEM or DER of an identity is in a text that others may read.
---@param text string
---@param identity table
function _M.assert_tells_no_secret(text, identity)
    for _, secret in ipairs(secrets_of(identity)) do
        assert.is_nil(text:find(secret, 1, true), text)
    end
end


--- Both calls are refused before they reach a server, and nobody is told a secret.
---@param gateway Gateway
---@param port integer
---@param identity table
---@param code string
---@param ... string plain phrases of the message
---@return Outcome[] outcomes
function _M.assert_refused(gateway, port, identity, code, ...)
    local outcomes = _M.outcomes(gateway, port, identity)
    for _, outcome in ipairs(outcomes) do
        assert.equals("connect", outcome.at, outcome.err)
        assert.equals("string", outcome.err_type)
        assert.equals(code, outcome.details.code, outcome.err)
        assert.equals("options", outcome.details.stage)
        assert.equals("string", type(outcome.details.hint))
        for _, phrase in ipairs({ ... }) do
            assert.matches(phrase, outcome.err, 1, true)
        end
        _M.assert_tells_no_secret(outcome.err .. "\n" .. outcome.details.hint, identity)
    end
    _M.assert_tells_no_secret(gateway:error_log(), identity)
    return outcomes
end


return _M
