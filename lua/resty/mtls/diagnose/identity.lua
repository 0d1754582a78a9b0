--- What is wrong with a client's certificate and its chain, whatever the server thinks of it.

local validity = require("resty.mtls.diagnose.validity")

local concat = table.concat
local find = string.find


local _M = {}


-- Every option that gives a part of an identity.
local options_of_identity = {
    "ssl_cert", "ssl_key", "ssl_cert_path", "ssl_key_path", "ssl_client_cert",
    "ssl_client_priv_key", "ssl_pkcs12",
}

-- Errors of loading an identity. A certificate may also be one of ssl_trusted_certificate.
local codes = {
    bad_certificate_pem = "cert",
    bad_key_pem = true,
    key_mismatch = true,
    key_encrypted = true,
    key_passphrase_wrong = true,
    bad_pkcs12 = true,
}


--- Whether connect options have an identity, or half of one.
---@param options table
---@return boolean
function _M.is_given(options)
    for i = 1, #options_of_identity do
        if options[options_of_identity[i]] ~= nil then
            return true
        end
    end
    return false
end


--- Whether an error says that the identity cannot be used.
---@param code string?
---@param message string?
---@return boolean
function _M.is_at_fault(code, message)
    if codes[code] == "cert" then
        return not find(message or "", "ssl_trusted_certificate", 1, true)
    end
    return codes[code] == true
end


local function has(list, wanted)
    for i = 1, #list do
        if list[i] == wanted then
            return true
        end
    end
    return false
end


local function look_at_dates(chain, add)
    for i = 1, #chain do
        local who = i == 1 and "the client certificate"
            or "the CA certificate '" .. chain[i].subject .. "' behind the client certificate"
        local problem, text = validity.problem(chain[i])
        if problem then
            add(problem == "expires_soon" and "warning" or "fault", "identity_" .. problem,
                who .. " " .. text,
                problem == "not_yet_valid" and "check this machine's clock, or wait"
                or "renew it, and install it with its chain")
        end
    end
end


local function look_at_usage(leaf, add)
    local usages = leaf.usages
    if usages and not has(usages, "clientAuth") and not has(usages, "any")
        and not has(usages, "anyExtendedKeyUsage") then
        add("fault", "identity_not_for_clients",
            "the extended key usage of the client certificate lacks clientAuth (it has "
            .. concat(usages, ", ") .. ")",
            "have it issued with extendedKeyUsage = clientAuth: servers refuse it otherwise")
    end
    if leaf.is_ca then
        add("warning", "identity_is_ca", "the client certificate is a CA's",
            "use one that this CA has issued: many servers refuse a CA as a client")
    end
end


-- Whether the CAs that the server announces have issued any certificate of the chain.
local function reaches(chain, authorities)
    for i = 1, #chain do
        if has(authorities, chain[i].issuer) or has(authorities, chain[i].subject) then
            return true
        end
    end
    return false
end


local function look_at_issuer(chain, authorities, accepted, add)
    if #authorities == 0 or reaches(chain, authorities) then
        return
    end
    local last = chain[#chain]
    local text = #chain == 1 and "the client certificate is issued by '"
        or "the chain of the client certificate ends with an issuer '"
    add(accepted and "note" or "fault", "identity_chain_incomplete",
        text .. last.issuer .. "', which is none of the CAs that the server announces ('"
        .. concat(authorities, "', '") .. "')",
        last.self_signed and "use a certificate that one of them has issued"
        or "if that issuer is an intermediate CA, put its certificate behind the client "
        .. "certificate; otherwise use a certificate of one of these CAs, or let the server trust "
        .. "that issuer")
end


--- Describes the identity, and finds its faults.
---@param seen table what the native client reports
---@param context {error: string?, code: string?, is_given: boolean, accepted: boolean}
---@param findings table
---@return table? identity nil if none was given
function _M.examine(seen, context, findings)
    if not context.is_given then
        return nil
    end
    local known = seen.identity or {}
    local chain = known.chain or {}
    local faults = {}
    local function add(level, code, text, hint)
        findings:add(level, "identity", code, text, hint)
        if level ~= "note" then
            faults[#faults + 1] = text
        end
    end

    -- The finding of the error is there already.
    if _M.is_at_fault(context.code, context.error) then
        faults[1] = context.error
    end
    for _, warning in ipairs(known.warnings or {}) do
        add("warning", "identity_chain_untidy", warning,
            "the certificate of the key first, each one followed by its issuer's")
    end
    if chain[1] then
        look_at_dates(chain, add)
        look_at_usage(chain[1], add)
        look_at_issuer(chain, seen.authorities or {}, context.accepted, add)
    end
    return {
        chain = chain,
        faults = faults,
        certificate_option = known.certificate_option,
        key_option = known.key_option,
    }
end


return _M
