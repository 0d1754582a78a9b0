--- Every way of calling there is. The driver chooses among them; ways/ has what they do.
local _M = {}

---@class Way
---@field name string
---@field weight integer
---@field needs string? "https" (without a proxy), "http1", or the name of the only target
---@field fails table<string, boolean>? codes, one of which it has to end with
---@field may table<string, boolean>? codes that it may end with
---@field is_abandoned boolean? the client of the gateway goes away meanwhile
---@field is_passed boolean? the gateway passes the request of its client on

local TIMEOUTS = { connect_timeout = true, tls_timeout = true, send_timeout = true,
                   read_timeout = true }

---@type Way[]
_M.list = {
    { name = "uri", weight = 24 },
    { name = "steps", weight = 24 },
    { name = "streamed", weight = 10 },
    { name = "left", weight = 4 },
    { name = "statuses", weight = 8 },
    { name = "post", weight = 12 },
    { name = "iterator", weight = 6 },
    { name = "chunked", weight = 4, needs = "http1" },
    { name = "expect", weight = 2, needs = "http1" },
    { name = "large_down", weight = 1 },
    { name = "large_up", weight = 1 },
    { name = "pipeline", weight = 5 },
    { name = "streams", weight = 5 },
    { name = "trailers", weight = 3 },
    { name = "slow", weight = 6 },
    { name = "apart", weight = 3 },
    { name = "owing", weight = 2 },
    { name = "killed", weight = 6 },
    { name = "backlog", weight = 4, needs = "https", may = { too_many_waiting = true } },
    { name = "handshake", weight = 3, needs = "h1" },
    { name = "bounded", weight = 4, fails = { http_too_large = true } },
    { name = "deadline", weight = 3, fails = TIMEOUTS },
    { name = "impatient", weight = 3, fails = { read_timeout = true } },
    { name = "slow", weight = 6, is_abandoned = true },
    { name = "large_down", weight = 1, is_abandoned = true },
    { name = "echoed", weight = 3, needs = "nghttpd" },
    { name = "pass", weight = 6, needs = "https", is_passed = true },
}

for _, way in ipairs(_M.list) do
    way.title = way.name .. (way.is_abandoned and ", abandoned" or "")
end


return _M
