--- What was asked, and what came of it. Nothing is right that is not counted here.
local _M = {}

-- Findings that are kept in full; all are counted.
local KEPT = 50

---@class Account
---@field rows table<string, Row> by the titles of ways
---@field findings string[]
local Account = {}
Account.__index = Account

---@class Row
---@field asked integer calls
---@field right integer calls
---@field requests integer of the calls that were right
---@field expected table<string, integer> calls by the code that they ended with
---@field abandoned integer
---@field findings integer


function _M.new()
    return setmetatable({ rows = {}, findings = {}, subjects = {}, targets = {} }, Account)
end


local function row_of(self, order)
    local row = self.rows[order.title]
    if not row then
        row = { asked = 0, right = 0, requests = 0, expected = {}, abandoned = 0, findings = 0 }
        self.rows[order.title] = row
    end
    return row
end


function Account:asked(order)
    local row = row_of(self, order)
    row.asked = row.asked + 1
    self.targets[order.target.name] = (self.targets[order.target.name] or 0) + 1
end


---@param requests integer that the call was made of
---@param subject string? as whom they were made
function Account:right(order, requests, subject)
    local row = row_of(self, order)
    row.right = row.right + 1
    row.requests = row.requests + requests
    subject = subject or ""
    self.subjects[subject] = (self.subjects[subject] or 0) + 1
end


function Account:expected(order, code)
    local row = row_of(self, order)
    row.expected[code] = (row.expected[code] or 0) + 1
end


function Account:abandoned(order)
    local row = row_of(self, order)
    row.abandoned = row.abandoned + 1
end


function Account:finding(order, text)
    local row = row_of(self, order)
    row.findings = row.findings + 1
    if #self.findings < KEPT then
        self.findings[#self.findings + 1] = string.format("call %d, %s to %s as %s: %s", order.id,
            order.title, order.target.name, order.who.name, text:sub(1, 300))
    end
end


--- What can be put into JSON.
function Account:table()
    return { rows = self.rows, findings = self.findings, subjects = self.subjects,
             targets = self.targets }
end


return _M
