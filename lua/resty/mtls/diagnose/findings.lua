--- The list of findings of a report.

local setmetatable = setmetatable


---@class resty.mtls.finding
---@field level "fault"|"warning"|"note" faults make the report not ok
---@field about "connection"|"server"|"client"|"identity"|"request"
---@field code string stable, for programs: an error code, or one that docs/diagnose.md lists
---@field text string one sentence, without a full stop
---@field hint string? what to do about it

local _M = {}

local methods = {}
local mt = { __index = methods }


---@param level "fault"|"warning"|"note"
---@param about string
---@param code string
---@param text string
---@param hint string?
function methods:add(level, about, code, text, hint)
    self.list[#self.list + 1] = {
        level = level, about = about, code = code, text = text, hint = hint,
    }
end


--- The first finding of a level, and how many there are.
---@param level string
---@param about string? of these alone
---@return resty.mtls.finding? first
---@return integer count
function methods:first(level, about)
    local first, count = nil, 0
    for i = 1, #self.list do
        local finding = self.list[i]
        if finding.level == level and (not about or finding.about == about) then
            first = first or finding
            count = count + 1
        end
    end
    return first, count
end


function _M.new()
    return setmetatable({ list = {} }, mt)
end


return _M
