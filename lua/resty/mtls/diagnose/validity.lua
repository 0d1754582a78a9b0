--- Whether certificates are valid by now, and for how much longer.

local ceil = math.ceil
local floor = math.floor
local match = string.match
local sub = string.sub
local time = os.time
local tonumber = tonumber


local _M = {}


local DAY = 24 * 3600
-- Renewing takes people some time.
local SOON = 14


-- Seconds since 1970 of "2049-12-31T00:00:00Z". os.time knows the local time zone only.
local function seconds(text)
    local year, month, day, hour, minute, second =
        match(text or "", "^(%d+)-(%d%d)-(%d%d)T(%d%d):(%d%d):(%d%d)")
    if not year then
        return nil
    end
    -- Years that begin in March have the leap day at their end.
    local months = (tonumber(month) + 9) % 12
    local years = tonumber(year) - floor(months / 10)
    local days = years * 365 + floor(years / 4) - floor(years / 100) + floor(years / 400)
        + floor((months * 306 + 5) / 10) + tonumber(day) - 1 - 719468
    return days * DAY + hour * 3600 + minute * 60 + second
end


--- What is wrong with the dates of a certificate.
---@param certificate resty.mtls.certificate
---@return "expired"|"not_yet_valid"|"expires_soon"|nil problem
---@return string? text "has expired (valid until 2020-02-01)"
function _M.problem(certificate)
    local until_day = sub(certificate.not_after or "", 1, 10)
    if certificate.expired then
        return "expired", "has expired (valid until " .. until_day .. ")"
    elseif certificate.not_yet_valid then
        return "not_yet_valid", "is not valid yet (valid from "
            .. sub(certificate.not_before or "", 1, 10) .. ")"
    end
    local ends = seconds(certificate.not_after)
    local days = ends and ceil((ends - time()) / DAY)
    if days and days <= SOON then
        return "expires_soon", "expires on " .. until_day .. ", in " .. days
            .. (days == 1 and " day" or " days")
    end
end


return _M
