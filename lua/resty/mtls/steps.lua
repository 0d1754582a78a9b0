--- The steps of requests for `http.debug(true)`, at level debug, each in a line of its own.
--
-- Whoever reads logs must not learn to log in. Of headers, only values are shown that are known to
-- be harmless; queries and bodies never are.

local destinations = require("resty.mtls.destination")
local log = require("resty.mtls.log")

local concat = table.concat
local format = string.format
local gsub = string.gsub
local lower = string.lower
local pairs = pairs
local sort = table.sort
local tostring = tostring
local type = type


local _M = {}


local shown_headers = {
    ["connection"] = true,
    ["content-encoding"] = true,
    ["content-length"] = true,
    ["content-type"] = true,
    ["date"] = true,
    ["keep-alive"] = true,
    ["server"] = true,
    ["transfer-encoding"] = true,
}


local function say(...)
    log.write("debug", log.escape(format(...)))
end


local function host_and_port(host, port)
    return tostring(host) .. (port and ":" .. tostring(port) or "")
end


--- A connection is wanted.
---@param options table connect options
function _M.connecting(options)
    -- What is no host may be one with credentials in front.
    local scheme, host, port = destinations.endpoint(options)
    if scheme then
        say("connect to %s", host_and_port(host, port))
    end
end


local function identity_of(report)
    local leaf = report.identity and report.identity.chain[1]
    local subject = leaf and leaf.subject
    if report.answer == "sent" then
        return "client certificate sent: " .. tostring(subject)
    elseif report.answer == "no_identity" then
        return "client certificate asked for, none given"
    elseif report.answer == "no_common_scheme" then
        return "client certificate not sent: no signature in common"
    elseif report.resumed and subject then
        return "resumed as " .. subject
    end
    return "client certificate not asked for"
end


local function say_handshake(report)
    say("TLS handshake in %.1f ms: %s, %s, %s, ALPN %s, %s", report.tls, report.version,
        report.cipher or "no cipher suite yet", report.resumed and "resumed"
        or report.resumed == false and "full" or "not finished", report.alpn or "none",
        identity_of(report))
end


local function say_way(httpc, report)
    if report.resolve > 0 then
        say("name resolved in %.1f ms", report.resolve)
    end
    if report.address then
        say("connected to %s in %.1f ms", report.address, report.connect)
    end
    local proxy = httpc.proxy
    if proxy then
        say(proxy.tunnels and "tunnel through the proxy %s is open" or "through the proxy %s",
            host_and_port(proxy.host, proxy.port))
    end
    if report.version then
        say_handshake(report)
    end
end


--- How connecting ended.
---@param httpc table
---@param ok any
---@param details any
function _M.connected(httpc, ok, details)
    local client = httpc.client
    local _, reused = client:attempt()
    local report = client:report()
    if ok and reused and reused > 0 then
        say("connection to %s taken from the pool, used %d times before",
            tostring(report and report.address), reused)
        return
    end
    -- Without an operation, the report is that of an earlier connection.
    local stage = type(details) == "table" and details.stage
    if report and (ok or stage ~= "options" and stage ~= "resolve") then
        say_way(httpc, report)
    end
end


--- A TLS handshake on a connection that was opened without.
---@param httpc table
function _M.shaken(httpc)
    local report = httpc.client:report()
    if report and report.version then
        say_handshake(report)
    end
end


--- A request is sent.
---@param head string? without what is secret in it
---@param err any
function _M.sending(head, err)
    if head then
        say("request: %s", (gsub(gsub(head, "[\r\n]+$", ""), "\r?\n", "; ")))
    else
        say("request: %s", tostring(err))
    end
end


local function shown(headers)
    local lines = {}
    for name, field in pairs(headers) do
        local text = "(redacted)"
        if shown_headers[lower(name)] then
            text = type(field) == "table" and concat(field, ", ") or tostring(field)
        end
        lines[#lines + 1] = "; " .. name .. ": " .. text
    end
    sort(lines)
    return concat(lines)
end


--- The head of a response has come.
---@param httpc table
---@param res table
function _M.answered(httpc, res)
    if httpc.client:attempt() == 2 then
        say("the request was sent again, on another connection")
    end
    say("response: %d %s, first byte after %.1f ms%s", res.status, res.reason,
        res.timings.first_byte, shown(res.headers))
end


--- All of a body has been taken.
---@param size? integer bytes, if it was taken at once
---@param total number milliseconds
function _M.body_complete(size, total)
    if size then
        say("body complete: %d bytes; %.1f ms in all", size, total)
    else
        say("body complete; %.1f ms in all", total)
    end
end


--- A call failed.
---@param err any
---@param details table
function _M.failed(err, details)
    -- Some messages quote what a caller gave as a URI.
    local message = gsub(tostring(err), "%?[^%s,']*", "?(redacted)")
    say("failed: %s (%s, %s)%s", message, tostring(details.code), tostring(details.stage),
        details.alert and format(", TLS alert %d", details.alert) or "")
end


local releases = {
    pooled = "connection kept for the next request",
    closed = "connection closed: server or request allow no other one on it",
    unread = "connection closed: the response has not been read to its end",
}


--- A connection was given back.
---@param result any
function _M.released(result)
    say("%s", releases[result] or "there was no connection to keep")
end


--- A connection was closed.
---@param was_open any
function _M.closed(was_open)
    if was_open then
        say("connection closed by the caller")
    end
end


return _M
