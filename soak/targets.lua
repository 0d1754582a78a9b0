--- Where calls go. The driver chooses among them, and the gateway knows how to get there.
local _M = {}

---@class Target
---@field name string
---@field weight integer
---@field server string name of the port, see servers.lua
---@field scheme "http"|"https"
---@field http_version number|string|nil
---@field options table? further ones of `connect`
---@field proxy string? of squid: "open", "guarded" or "tls"
---@field is_shaky boolean? is killed, frozen, reloaded and away while the soak runs
---@field protocol string what the server has to see
---@field tls string the version that the server has to see
---@field only table<string, boolean>? the ways that go there; all of them unless given

--- With what a call to a server that is killed, frozen or away may end, and nothing else. Its
--- answer is right, or one of these.
_M.SHAKEN = {
    connect_refused = true, connect_failed = true, connect_timeout = true, tls_timeout = true,
    send_timeout = true, read_timeout = true, closed = true, http2_reset = true,
    http2_gone_away = true, pipelined = true,
}

-- Requests that may be sent once more, each on a connection of the pool: one that its caller holds
-- may have ended meanwhile.
local SAFE = { uri = true }

-- squid says 100 on its own. Bodies of requests that are larger than its buffer it may break off in
-- the middle, without an answer: of squid 5.7, strace shows a read of 0 bytes into the full buffer,
-- and that the 0 is taken for the end of the client. In tunnels it does not look at bodies.
local IN_TUNNEL = { uri = true, steps = true, streamed = true, post = true, iterator = true,
                    large_down = true, large_up = true, left = true, slow = true, bounded = true }
local PROXIED = { uri = true, steps = true, streamed = true, post = true, iterator = true,
                  large_down = true, left = true, slow = true, bounded = true }

local LOCAL = { steps = true, streamed = true, post = true, iterator = true, chunked = true,
                large_down = true, statuses = true, pipeline = true, apart = true, slow = true }

---@type Target[]
_M.list = {
    { name = "h1", weight = 12, server = "tls", scheme = "https" },
    { name = "h1-tls12", weight = 4, server = "tls", scheme = "https",
      options = { ssl_max_version = "TLSv1.2" } },
    { name = "h1-full", weight = 2, server = "tls", scheme = "https",
      options = { ssl_session_reuse = false, ssl_min_version = "TLSv1.3" } },
    { name = "h2", weight = 12, server = "h2", scheme = "https", http_version = 2 },
    { name = "h2-tls12", weight = 2, server = "h2", scheme = "https", http_version = 2,
      options = { ssl_max_version = "TLSv1.2" } },
    { name = "auto", weight = 3, server = "h2", scheme = "https", http_version = "auto" },
    { name = "plain", weight = 4, server = "plain", scheme = "http" },
    { name = "h2c", weight = 2, server = "h2c", scheme = "http", http_version = 2 },
    { name = "unix", weight = 2, server = "unix", scheme = "http", only = LOCAL },
    { name = "brief", weight = 3, server = "brief", scheme = "https", only = SAFE },
    { name = "proxy", weight = 2, server = "plain", scheme = "http", proxy = "open",
      only = PROXIED },
    { name = "tunnel", weight = 2, server = "tls", scheme = "https", proxy = "guarded",
      only = IN_TUNNEL },
    { name = "tls-tunnel", weight = 2, server = "h2", scheme = "https", proxy = "tls",
      http_version = 2, only = IN_TUNNEL },
    { name = "nghttpd", weight = 1, server = "nghttpd", scheme = "https", http_version = 2,
      only = { echoed = true } },
    { name = "shaky-h1", weight = 6, server = "shaky_tls", scheme = "https", is_shaky = true },
    { name = "shaky-h2", weight = 6, server = "shaky_h2", scheme = "https", is_shaky = true,
      http_version = 2 },
    { name = "shaky-plain", weight = 2, server = "shaky_plain", scheme = "http", is_shaky = true },
}

_M.by_name = {}
for _, target in ipairs(_M.list) do
    target.tls = target.options and target.options.ssl_max_version or "TLSv1.3"
    target.protocol = target.http_version and "HTTP/2.0" or "HTTP/1.1"
    _M.by_name[target.name] = target
end


--- Those that a way may go to.
---@param way Way
---@return Target[]
function _M.of(way)
    local list = {}
    for _, target in ipairs(_M.list) do
        local is_http1 = not target.http_version
        if (not target.only or target.only[way.name])
                and (not way.needs or way.needs == "https" and target.scheme == "https"
                     and not target.proxy or way.needs == "http1" and is_http1
                     or way.needs == target.name) then
            list[#list + 1] = target
        end
    end
    return list
end


return _M
