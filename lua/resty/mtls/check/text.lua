--- A report as text for people.

local concat = table.concat
local find = string.find
local format = string.format
local gmatch = string.gmatch
local gsub = string.gsub
local rep = string.rep
local sub = string.sub
local tostring = tostring


local _M = {}


local LABEL_WIDTH = 16
local LINE_WIDTH = 96

local results = {
    accepted = "accepted",
    rejected = "REJECTED",
    not_requested = "not sent, since the server did not ask for one",
    not_given = "none given",
    unknown = "not known",
}

local yes_no = { [true] = "yes", [false] = "NO" }


-- Lines of words up to LINE_WIDTH, the later ones indented as the first one is.
local function wrap(text, indent)
    local lines, line = {}, ""
    for word in gmatch(text, "%S+") do
        if line ~= "" and #line + #word + 1 + indent > LINE_WIDTH then
            lines[#lines + 1] = line
            line = word
        else
            line = line == "" and word or line .. " " .. word
        end
    end
    lines[#lines + 1] = line
    return concat(lines, "\n" .. rep(" ", indent))
end


local Page = {}
Page.__index = Page


-- Servers choose some of the text; a terminal must not take it for commands.
function Page:add(line)
    local parts = {}
    for part in gmatch(line .. "\n", "(.-)\n") do
        parts[#parts + 1] = gsub(part, "%c", "?")
    end
    self[#self + 1] = concat(parts, "\n")
end


function Page:title(text)
    self:add("")
    self:add(text)
end


-- Nothing for a value that is not known.
function Page:field(label, value)
    if value ~= nil then
        self:add("  " .. format("%-" .. LABEL_WIDTH .. "s", label)
            .. wrap(tostring(value), LABEL_WIDTH + 2))
    end
end


local function date(text)
    return sub(text or "?", 1, 10)
end


local function notes_on(certificate)
    local notes = {}
    for _, name in ipairs({ "expired", "not_yet_valid", "self_signed", "is_ca" }) do
        if certificate[name] then
            notes[#notes + 1] = ({ expired = "EXPIRED", not_yet_valid = "NOT YET VALID",
                                   self_signed = "self-signed", is_ca = "CA" })[name]
        end
    end
    return notes[1] and " (" .. concat(notes, ", ") .. ")" or ""
end


local function add_chain(page, chain)
    for i = 1, #chain do
        local certificate = chain[i]
        page:field("certificate " .. i, certificate.subject .. notes_on(certificate))
        page:field("  issued by", certificate.issuer)
        page:field("  valid", date(certificate.not_before) .. " to " .. date(certificate.not_after))
        page:field("  key", certificate.key)
        if certificate.names and certificate.names[1] then
            page:field("  names", concat(certificate.names, ", "))
        end
        if i == 1 and certificate.usages then
            page:field("  usage", concat(certificate.usages, ", "))
        end
        page:field("  sha256", certificate.sha256)
    end
end


local function add_connection(page, report)
    page:title("Connection")
    local host = find(report.host, ":", 1, true) and not find(report.host, "^unix:")
        and "[" .. report.host .. "]" or report.host
    page:field("server", host .. (report.port and ":" .. report.port or ""))
    page:field("address", report.address)
    page:field("server name", report.server_name)
    local times = {}
    for _, step in ipairs({ "resolve", "connect", "tls" }) do
        if report[step] then
            times[#times + 1] = format("%s %.1f ms", step, report[step])
        end
    end
    page:field("times", times[1] and concat(times, ", "))
    page:field("TLS", report.version and report.version
        .. (report.cipher and ", " .. report.cipher or ""))
    page:field("ALPN", report.alpn)
end


local function add_server(page, server)
    if not server.chain[1] then
        return
    end
    page:title("Server")
    add_chain(page, server.chain)
    page:field("trusted", yes_no[server.trusted])
    page:field("chain complete", yes_no[server.complete])
    page:field("name matches", yes_no[server.name_matches])
end


local function add_client(page, client, identity)
    page:title("Client")
    if identity then
        add_chain(page, identity.chain)
    end
    page:field("asked for", yes_no[client.requested])
    for i = 1, #client.acceptable_cas do
        page:field(i == 1 and "acceptable CAs" or "", client.acceptable_cas[i])
    end
    if client.requested and not client.acceptable_cas[1] then
        page:field("acceptable CAs", "any (the server announces none)")
    end
    page:field("sent", client.offered and client.offered.subject)
    page:field("result", results[client.result])
end


local function add_request(page, request)
    if request then
        page:title("Request")
        page:field("GET", request.path)
        page:field("answer", request.status
            and gsub(request.status .. " " .. (request.reason or ""), "%s+$", "") or "none")
    end
end


local function add_findings(page, findings)
    if findings[1] then
        page:title("Findings")
    end
    for i = 1, #findings do
        page:field(findings[i].level, findings[i].text)
        if findings[i].hint then
            page:field("", "-> " .. findings[i].hint)
        end
    end
end


--- The report, with the verdict as its last line.
---@param report resty.mtls.report
---@return string
function _M.of(report)
    local page = setmetatable({}, Page)
    add_connection(page, report)
    add_server(page, report.server)
    add_client(page, report.client, report.identity)
    add_request(page, report.request)
    add_findings(page, report.findings)
    page:add("")
    page:add((report.ok and "OK: " or "FAULT: ") .. report.verdict)
    return sub(concat(page, "\n"), 2) .. "\n"
end


return _M
