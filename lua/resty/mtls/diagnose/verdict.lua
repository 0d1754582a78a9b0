--- One sentence about a report.

local gsub = string.gsub
local upper = string.upper


local _M = {}


-- Messages that callers compare as a whole say too little for people.
local sentences = {
    connect_timeout = "no connection in time",
    tls_timeout = "connected, but no TLS handshake in time",
    send_timeout = "the server stopped reading the request",
    read_timeout = "connected, but no answer to the request in time",
    closed = "the server closed the connection",
}

-- The phrases in front that callers of resty.http search for.
local prefixes = {
    "^handshake failed: ", "^certificate verify failed: ", "^certificate host mismatch: ",
    "^handshake failed: ",
}

-- By the result of the client's authentication.
local well = {
    accepted = "the server accepts the client certificate",
    not_requested = "the server asks for no client certificate",
    not_given = "the server asks for a client certificate, and none was given",
    unknown = "whether the server accepts the client certificate is not known",
}


local function message_of(report)
    local text = sentences[report.code]
    if text then
        return report.code == "closed" and report.stage == "tls"
            and text .. " during the handshake" or text
    end
    text = report.error
    for i = 1, #prefixes do
        text = gsub(text, prefixes[i], "")
    end
    return text
end


local function of_success(report)
    local client = report.client
    local text = well[client.result]
    if client.result == "unknown" and not report.identity then
        text = "no certificates were exchanged, since an earlier TLS session was resumed"
    elseif client.result == "not_given" and not report.request then
        text = text .. "; whether it goes on without is not known"
    elseif client.result == "unknown" and not report.request then
        text = text .. " until a request is made"
    end
    if report.server.trusted then
        text = "the server's certificate is trusted"
            .. (client.result == "unknown" and "; " or ", and ") .. text
    end
    return "no fault found: " .. text
end


-- A rejection says that the server did not like the certificate; what is wrong with it says why.
local function of_failure(report, findings)
    local first = findings:first("fault")
    local text = report.error and message_of(report) or first.text
    local cause = findings:first("fault", "identity")
    if cause and report.client.result == "rejected"
        and report.code ~= "client_certificate_expired" then
        text = text .. ": " .. cause.text
    end
    return text
end


--- One sentence that says how it is.
---@param report table all but its verdict
---@param findings table
---@return string verdict
function _M.of(report, findings)
    local text = report.ok and of_success(report) or of_failure(report, findings)
    local _, warnings = findings:first("warning")
    if report.ok and warnings > 0 then
        text = text .. "; " .. warnings .. (warnings == 1 and " warning" or " warnings")
    end
    return gsub(text, "^%l", upper) .. "."
end


return _M
