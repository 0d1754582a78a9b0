--- Looks at a server as this client sees it, and says what is wrong with mutual TLS: whether the
--- server's certificates are good, whether it asks for a client certificate, what it makes of the
--- one that is given, and what is wrong with that one by itself.

local client_side = require("resty.mtls.diagnose.client")
local finding_list = require("resty.mtls.diagnose.findings")
local identity_side = require("resty.mtls.diagnose.identity")
local native = require("resty.mtls.native")
local server_side = require("resty.mtls.diagnose.server")
local verdicts = require("resty.mtls.diagnose.verdict")

local find = string.find
local gsub = string.gsub
local match = string.match
local max = math.max
local min = math.min
local pairs = pairs
local pcall = pcall
local sub = string.sub
local tonumber = tonumber
local tostring = tostring
local type = type


local _M = {}


-- A diagnosis has a connection of its own: nobody else uses this name with this number.
local POOL = "resty.mtls.diagnose "
local diagnoses = 0
-- Milliseconds for each step. An operator waits.
local TIMEOUT = 10000
-- Of the response; more than a page that says why.
local MAX_BODY = 16384

-- What an error is about, by its stage; those of identities and certificates by their code.
local about_stage = {
    options = "connection", resolve = "connection", connect = "connection", proxy = "connection",
    tls = "connection", send = "request", response = "request", body = "request",
}


---@class resty.mtls.report
---@field ok boolean no fault was found
---@field verdict string one sentence
---@field code string? of the error
---@field error string?
---@field stage string? the step that failed
---@field alert integer? number of the TLS alert that the server sent
---@field hint string? what to do about the error
---@field host string
---@field port integer?
---@field server_name string? what was sent as SNI and looked for in the server's certificate
---@field address string? what was connected to
---@field resolve number? milliseconds
---@field connect number? milliseconds
---@field tls number? milliseconds
---@field version string? "TLSv1.3"
---@field cipher string?
---@field alpn string?
---@field resumed boolean? an earlier TLS session was resumed: no certificates were exchanged
---@field server {chain: resty.mtls.certificate[], complete: boolean?, trusted: boolean?,
---name_matches: boolean?}
---@field client {requested: boolean?, acceptable_cas: string[],
---offered: resty.mtls.certificate?,
---result: "accepted"|"rejected"|"not_requested"|"not_given"|"unknown"}
---@field identity {chain: resty.mtls.certificate[], faults: string[],
---certificate_option: string?, key_option: string?}?
---@field request {path: string, status: integer?, reason: string?}?
---@field findings resty.mtls.finding[]


local function connect_options(options)
    local given = {}
    for name, value in pairs(options) do
        given[name] = value
    end
    given.scheme = given.scheme or "https"
    given.port = given.port or 443
    diagnoses = diagnoses + 1
    given.pool, given.pool_size, given.backlog = POOL .. diagnoses, nil, nil
    -- A session that is resumed exchanges no certificates.
    given.ssl_session_reuse = false
    return given
end


local function failure(err, details)
    details = details or {}
    return {
        error = tostring(err), code = details.code or "internal", stage = details.stage,
        alert = details.alert, hint = details.hint,
    }
end


local function make_request(httpc, given)
    local request = { path = gsub(given.path, "%?.*", "?...") }
    local res, err, details = httpc:request({ path = given.path, headers = given.headers })
    if not res then
        return request, failure(err, details)
    end
    request.status, request.reason = res.status, res.reason
    -- A body that cannot be read is no news about TLS.
    local refusal = client_side.refusal(request, res.has_body and res.body_reader(MAX_BODY) or "")
    if not refusal then
        return request
    end
    return request, { error = refusal.text, code = refusal.code, stage = "response",
                      hint = refusal.hint }
end


-- TLS 1.3 servers judge the client certificate when the client is connected already. Their alert is
-- a round trip away, while a server that has nothing against it says nothing.
local function await_rejection(httpc, seen)
    -- Over HTTP/2 the server has spoken already.
    if seen.version ~= "TLSv1.3" or not seen.requested or seen.alpn == "h2" then
        return nil
    end
    local patience = min(max(200, 3 * (seen.tls or 0)), 2000)
    httpc:set_timeouts(TIMEOUT, TIMEOUT, patience)
    local res, err, details = httpc:read_response({})
    if not res and not (details and details.code == "read_timeout") then
        return failure(err, details)
    end
end


-- What happened: whether the handshake was completed, the request if there was one, the error, and
-- what the native client has seen.
local function try(http, given)
    local httpc = http.new()
    httpc:set_timeout(tonumber(given.timeout) or TIMEOUT)
    local connected, err, details = httpc:connect(given)
    local request, failed
    if not connected then
        failed = failure(err, details)
    elseif given.path then
        request, failed = make_request(httpc, given)
    else
        failed = await_rejection(httpc, httpc.client:report() or {})
    end
    local seen = httpc.client:report() or {}
    if seen.resumed then
        -- Nobody asks for certificates then.
        seen.requested = nil
    end
    httpc.client:close(true)
    return connected == true, request, failed, seen
end


local function add_error(failed, findings)
    local code = failed.code
    local about = match(code, "^(%a+)_certificate_")
    if identity_side.is_at_fault(code, failed.error) then
        about = "identity"
    elseif not about then
        about = match(code, "^server_") and "server" or about_stage[failed.stage] or "connection"
    end
    findings:add("fault", about, code, failed.error, failed.hint)
end


-- A server that speaks HTTP/2 only may go on without an answer to what it was offered.
local function add_protocol(failed, seen, findings)
    local is_unanswered = failed.stage == "send" or failed.stage == "response"
    if is_unanswered and seen.version and not seen.alpn then
        findings:add("note", "connection", "protocol_not_chosen",
            "the server chose none of the versions of HTTP that it was offered (ALPN)",
            "if it speaks HTTP/2 only, set http_version to 2")
    end
end


local function add_status(request, result, findings)
    local status = request.status
    if not status or status < 400 then
        return
    end
    local hint
    if result == "accepted" and (status == 401 or status == 403) then
        hint = "TLS is well: it is the application that refuses this client"
    elseif status == 421 then
        hint = "the server wants the name of TLS (ssl_server_name) and the Host header to agree"
    end
    findings:add("warning", "request", "request_refused",
        "the server answered " .. status .. " to GET " .. request.path, hint)
end


-- What is no name may be a key in the wrong place, which a report must not show.
local function is_name(text)
    -- RFC 1035, 2.3.4
    return #text <= 253 and find(text, "^[%w_.:-]+$")
        and not find(text, ("[^.]"):rep(64)) -- no longer label
end


local function server_name_of(given)
    local name = given.ssl_server_name
    if name == nil and type(given.host) == "string" and sub(given.host, 1, 5) ~= "unix:" then
        name = given.host
    end
    name = name and gsub(tostring(name), "[%[%]]", "")
    return name and is_name(name) and name or nil
end


local function is_verified(given)
    local verify = given.ssl_verify
    if verify == nil then
        verify = native.defaults().ssl_verify
    end
    return verify ~= false
end


-- A step that was not completed took no time.
local function time_of(step)
    return step ~= 0 and step or nil
end


local function diagnose(http, options)
    local given = connect_options(options)
    local connected, request, failed, seen = try(http, given)
    local findings = finding_list.new()
    if failed then
        add_error(failed, findings)
    end
    failed = failed or {}
    add_protocol(failed, seen, findings)

    local report = {
        code = failed.code, error = failed.error, stage = failed.stage, alert = failed.alert,
        hint = failed.hint,
        host = tostring(given.host), port = tonumber(given.port),
        server_name = server_name_of(given),
        address = seen.address, resolve = time_of(seen.resolve), connect = time_of(seen.connect),
        tls = time_of(seen.tls),
        version = seen.version, cipher = seen.cipher, alpn = seen.alpn, resumed = seen.resumed,
        request = request,
        findings = findings.list,
    }
    local context = {
        code = failed.code, error = failed.error, connected = connected,
        status = not failed.code and request and request.status or nil,
        verified = is_verified(given), server_name = report.server_name,
        is_given = identity_side.is_given(given), requested_path = request ~= nil,
    }
    report.server = server_side.examine(seen, context, findings)
    report.client = client_side.examine(seen, context, findings)
    context.accepted = report.client.result == "accepted"
    report.identity = identity_side.examine(seen, context, findings)
    if context.status then
        add_status(request, report.client.result, findings)
    end
    report.ok = findings:first("fault") == nil
    report.verdict = verdicts.of(report, findings)
    return report
end


-- The shape of a report is always the same.
local function not_tried(code, message)
    local findings = finding_list.new()
    findings:add("fault", "connection", code, message)
    return {
        ok = false, verdict = message, code = code, error = message, host = "",
        server = { chain = {} }, client = { acceptable_cas = {}, result = "unknown" },
        findings = findings.list,
    }
end


--- Connects to a server, makes a request if there is a path, and reports what was seen. Raises
--- nothing; waits as `connect` does.
---@param http table `resty.mtls.http`
---@param options table those of `connect` (the scheme is https; pool, pool_size and backlog are
---ignored), `path` of a GET to make, `headers` of that, and `timeout` (milliseconds for each step,
---10000 by default)
---@return resty.mtls.report report
function _M.run(http, options)
    if type(options) ~= "table" then
        return not_tried("bad_argument", "bad options: expected a table, got " .. type(options))
    elseif options.scheme ~= nil and options.scheme ~= "https" then
        return not_tried("bad_argument", "bad 'scheme': only https can be diagnosed")
    elseif options.path ~= nil and type(options.path) ~= "string" then
        return not_tried("bad_argument", "bad 'path': expected a string, got "
            .. type(options.path))
    end
    local ok, report = pcall(diagnose, http, options)
    return ok and report or not_tried("internal", "internal error: " .. tostring(report))
end


return _M
