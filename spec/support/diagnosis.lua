--- Reports of http.diagnose, made in plain luajit and inside nginx.
---
---     local places = diagnosis.places()
---     for _, report in places:look_at(nginx.upstream(), diagnosis.as("client-a")) do
local assert = require("luassert")
local cjson = require("cjson")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local secure = require("spec.support.secure")

local _M = {}

---@class DiagnosisPlaces
---@field gateway Gateway
local Places = {}
Places.__index = Places


--- Starts what is needed; ends with `:stop()`.
---@return DiagnosisPlaces
function _M.places()
    return setmetatable({ gateway = nginx.gateway() }, Places)
end


function Places:stop()
    self.gateway:stop()
end


-- As it is encoded there: a report is a table that JSON can carry.
function Places:inside(options)
    local output = self.gateway:run([[
        local cjson, http = require("cjson"), require("resty.mtls.http")
        print(cjson.encode(http.diagnose(cjson.decode(${options}))))
    ]], { vars = { options = "[==[" .. cjson.encode(options) .. "]==]" } })
    return cjson.decode(output)
end


--- Both reports.
---@param options table
---@return resty.mtls.report[] reports
function Places:reports_of(options)
    return { http.diagnose(options), self:inside(options) }
end


--- The reports on a server of localhost, whose CA is trusted unless `more` says otherwise.
---@param server { port: integer }
---@param more table? see secure.options
---@return resty.mtls.report[] reports
function Places:reports(server, more)
    local options = secure.options(server, more)
    options.request = nil
    return self:reports_of(options)
end


--- The reports on a server, which is stopped then, for a loop over them.
---@param server { port: integer, stop: fun(self: table) }
---@param more table?
---@return fun(list: table, i: integer): integer?, resty.mtls.report?
---@return resty.mtls.report[]
---@return integer
function Places:look_at(server, more)
    local ok, list = pcall(self.reports, self, server, more)
    server:stop()
    return ipairs(assert(ok and list, list))
end


--- Options with a client certificate and a request.
---@param identity string
---@param more table?
---@return table options
function _M.as(identity, more)
    local options = secure.as(identity, { path = "/echo" })
    for name, value in pairs(more or {}) do
        options[name] = value
    end
    return options
end


--- A moment as openssl writes it.
---@param days integer from now
---@return string
function _M.in_days(days)
    return os.date("!%Y%m%d%H%M%SZ", os.time() + days * 24 * 3600)
end


--- The finding with this code.
---@param report resty.mtls.report
---@param code string
---@return resty.mtls.finding? finding
function _M.finding(report, code)
    for _, finding in ipairs(report.findings) do
        if finding.code == code then
            return finding
        end
    end
end


--- A report has this finding, and is ok as faults are there or not.
---@param report resty.mtls.report
---@param level "fault"|"warning"|"note"
---@param code string
---@param ... string plain phrases of its text and hint
function _M.assert_found(report, level, code, ...)
    local finding = _M.finding(report, code)
    assert.is_table(finding, code .. " is missing: " .. cjson.encode(report.findings))
    assert.equals(level, finding.level)
    for _, phrase in ipairs({ ... }) do
        assert.matches(phrase, finding.text .. "\n" .. (finding.hint or ""), 1, true)
    end
    assert.equals("string", type(report.verdict))
    local faults = 0
    for _, other in ipairs(report.findings) do
        faults = faults + (other.level == "fault" and 1 or 0)
    end
    assert.equals(faults == 0, report.ok, cjson.encode(report.findings))
end


--- A report found nothing to complain of; notes aside.
---@param report resty.mtls.report
function _M.assert_clean(report)
    for _, finding in ipairs(report.findings) do
        assert.equals("note", finding.level, finding.text)
    end
    assert.is_true(report.ok)
    assert.is_nil(report.error)
    assert.is_nil(report.code)
    assert.matches("^No fault found: ", report.verdict)
end


return _M
