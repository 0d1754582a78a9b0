--- Placeholders in nginx configurations and in Lua chunks.
---
---     ${port.gateway}        a free port; the same one wherever the name stands
---     ${cert.client-a.crt}   path of a file of the PKI (see certs.lua)
---     ${pem.client-a.crt}    its content as a Lua string literal
---     ${repo}                the checkout
---     ${anything}            vars.anything
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local ports = require("spec.support.ports")

local _M = {}


local function lua_literal(text)
    -- A long bracket swallows a newline at its beginning.
    return "[==[\n" .. text .. "]==]"
end


local function lookup(name, vars, known_ports)
    local kind, rest = name:match("^(%a+)%.(.+)$")
    if kind == "port" then
        known_ports[rest] = known_ports[rest] or ports.free()
        return known_ports[rest]
    elseif kind == "cert" then
        return certs.path(rest)
    elseif kind == "pem" then
        return lua_literal(certs.read(rest))
    elseif name == "repo" then
        return fs.repo
    end
    return vars[name]
end


--- Replaces every placeholder; an unknown one is an error.
---@param text string
---@param vars table<string, string|number>?
---@param known_ports table<string, integer>? filled with ports that get allocated
---@return string
function _M.expand(text, vars, known_ports)
    return (text:gsub("%${([^}]+)}", function(name)
        local value = lookup(name, vars or {}, known_ports or {})
        if value == nil then
            error("unknown placeholder ${" .. name .. "}", 0)
        end
        return tostring(value)
    end))
end


return _M
