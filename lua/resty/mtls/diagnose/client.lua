--- Whether the server asked for a client certificate, and what it made of the answer.

local find = string.find


local _M = {}


local ASK = "let the server ask for one in the handshake. nginx: `ssl_verify_client on` in the "
    .. "server block of this name. Apache httpd: `SSLVerifyClient require` for the whole virtual "
    .. "host, not for a directory or location: it would ask after the handshake (renegotiation, "
    .. "post-handshake authentication), which is not supported. Node.js: `requestCert: true`"

-- How nginx answers after a handshake that it has let pass, by phrases of the page. It answers 400;
-- 495 and 496 are what it calls these errors itself, and some configurations send them.
local refusals = {
    {
        phrase = "No required SSL certificate was sent", status = 496,
        code = "client_certificate_required",
        text = "the server requires a client certificate and none was sent",
        hint = "set ssl_cert and ssl_key",
    },
    {
        phrase = "The SSL certificate error", status = 495,
        code = "client_certificate_rejected",
        text = "the server rejected the client certificate",
        hint = "nginx writes the reason into its error.log, at level info ('client SSL certificate "
            .. "verify error'). Its `ssl_client_certificate` has to have the CA, and its "
            .. "`ssl_verify_depth` (1 by default) has to allow for the intermediate CAs",
    },
}


--- The refusal that a response is, as nginx tells it.
---@param request {status: integer}
---@param body string the beginning of the page
---@return {code: string, text: string, hint: string}? refusal
function _M.refusal(request, body)
    for i = 1, #refusals do
        local refusal = refusals[i]
        if request.status == refusal.status
            or (request.status == 400 and find(body, refusal.phrase, 1, true)) then
            return {
                code = refusal.code,
                text = refusal.text .. " (it answered " .. request.status .. ")",
                hint = refusal.hint,
            }
        end
    end
end


local function result_of(seen, code, answered)
    if seen.requested == false then
        return "not_requested"
    elseif seen.answer == "no_identity" then
        return "not_given"
    elseif code and find(code, "^client_certificate_") then
        return "rejected"
    elseif seen.answer == "sent" and answered then
        return "accepted"
    end
    return "unknown"
end


local function explain_not_requested(context, findings)
    local status = context.status
    local refused = status == 401 or status == 403
    if context.is_given then
        findings:add("fault", "client", "client_certificate_not_requested",
            "the server asked for no client certificate during the handshake, so that none was "
            .. "sent" .. (refused and " (and it answered " .. status .. ")" or ""), ASK)
    elseif refused then
        findings:add("note", "client", "client_certificate_not_requested",
            "the server asked for no client certificate during the handshake",
            "if it is meant to: " .. ASK)
    end
end


local function explain_unknown(seen, context, findings)
    if seen.resumed then
        findings:add("note", "client", "client_certificate_unknown",
            "an earlier TLS session was resumed, so that no certificates were exchanged")
    elseif context.connected and not context.requested_path then
        findings:add("note", "client", "client_certificate_unknown",
            "whether the server accepts the client certificate is not known until a request is "
            .. "made", "give a path to send a GET for")
    end
end


local function explain_not_given(context, findings)
    if context.code then
        return
    end
    findings:add("note", "client", "client_certificate_not_given",
        "the server asked for a client certificate and none was given"
        .. (context.status and "; it answered all the same" or ""),
        not context.status and "give a path to send a GET for, to see whether it goes on without"
        or nil)
end


--- Describes how the client was asked for its certificate.
---@param seen table what the native client reports
---@param context {code: string?, status: integer?, is_given: boolean, connected: boolean,
---requested_path: boolean}
---@param findings table
---@return table client
function _M.examine(seen, context, findings)
    local result = result_of(seen, context.code, context.status ~= nil)
    if result == "not_requested" then
        explain_not_requested(context, findings)
    elseif result == "not_given" then
        explain_not_given(context, findings)
    elseif result == "unknown" then
        explain_unknown(seen, context, findings)
    end
    -- What is sent to a server is decided before the server is known to be the right one.
    local was_sent = seen.answer == "sent" and not find(context.code or "", "^server_")
    return {
        requested = seen.requested,
        acceptable_cas = seen.authorities or {},
        offered = was_sent and seen.identity and seen.identity.chain[1] or nil,
        result = result,
    }
end


return _M
