--- Peers that break off, lie and flood, and calls that cannot go well: each with the codes that it
--- may end with. The runner starts the peers, and the gateway calls them.
local _M = {}

---@class Hostile
---@field name string
---@field weight integer
---@field tls "1.2"|"1.3"|nil
---@field http2 boolean? prior knowledge, with a connection for each call
---@field steps (fun(f: table, frames: table): string[])? of each connection, for fault_server.start
---@field calls string? the port that is called in place of one's own
---@field options table? of `connect`
---@field timeouts integer[]?
---@field request table? parameters
---@field has_mismatch boolean? the key is not that of the certificate
---@field is_tls boolean? is called with https, whatever the peer speaks
---@field proxy string?
---@field fails table<string, boolean>? codes, one of which it has to end with
---@field may table<string, boolean>? codes that it may end with; else the answer is `answer`
---@field answer string?

local OK = "HTTP/1.1 200 OK\r\n"
local GOOD = OK .. "Content-Length: 4\r\n\r\ngood"
local SOME_OF_9 = OK .. "Content-Length: 9\r\n\r\nsome"
local BLOCK = ("x"):rep(16384)

local FOREVER = "forever"
local ALERT = 21

-- What a client of HTTP/2 sends before its request, and a part of that.
local SOME_REQUEST = 200


local function codes(...)
    local set = {}
    for _, code in ipairs({ ... }) do
        set[code] = true
    end
    return set
end


-- Behind a request's head, in TLS of that version.
local function behind_head(tls, ...)
    local steps = { ... }
    return function(f)
        local all = { tls and f.handshake or nil }
        all[#all + 1] = f.head
        for _, step in ipairs(steps) do
            all[#all + 1] = type(step) == "function" and step(f) or step
        end
        return all
    end
end


local function send(bytes)
    return function(f) return f.send(bytes) end
end


local function flood(bytes)
    return function(f) return f.send_often(FOREVER, bytes) end
end


local function alert(number)
    return function(f) return f.record(ALERT, "\2" .. string.char(number)) end
end


local function http2(fails, frames_of)
    return { http2 = true, weight = 2, fails = fails, steps = function(f, frames)
        -- A client waits for the settings.
        local steps = { f.send(frames.SETTINGS), f.take(SOME_REQUEST) }
        for _, step in ipairs(frames_of(f, frames)) do
            steps[#steps + 1] = step
        end
        return steps
    end }
end


local CLOSED = codes("closed")
local ALL = { 20000, 20000, 20000 }

---@type table<string, Hostile>
local scenes = {
    ["ends in the head"] = { steps = behind_head("1.3", send("HTTP/1.1 200 OK\r\nContent-"), "cut"),
                             tls = "1.3", fails = CLOSED },
    ["ends in the body"] = { steps = behind_head("1.2", send(SOME_OF_9)), tls = "1.2",
                             fails = CLOSED },
    ["ends in a chunk"] = { steps = behind_head(nil, send(OK .. "Transfer-Encoding: chunked\r\n\r\n"
                                                          .. "5\r\nhel")), fails = CLOSED },
    ["resets"] = { steps = behind_head("1.3", "reset"), tls = "1.3", fails = CLOSED },
    ["resets in the body"] = { steps = behind_head(nil, send(SOME_OF_9), "reset"), fails = CLOSED },
    ["is malformed"] = { steps = behind_head("1.3", send("HTTP/1.1 OK good\r\n\r\n")), tls = "1.3",
                         fails = codes("http_malformed") },
    ["has two lengths"] = { steps = behind_head(nil, send(OK .. "Content-Length: 4\r\n"
                                                          .. "Content-Length: 5\r\n\r\ngood!")),
                            fails = codes("http_malformed") },
    ["floods the head"] = { steps = behind_head("1.3", send(OK), flood(("X: 1\r\n"):rep(1000))),
                            tls = "1.3", fails = codes("http_too_large") },
    ["floods the body"] = { steps = behind_head("1.2", send(OK .. "\r\n"), flood(BLOCK)),
                            tls = "1.2", request = { max_body_size = 1024 * 1024 },
                            fails = codes("http_too_large") },
    ["is silent"] = { steps = behind_head("1.3", "stall"), tls = "1.3",
                      timeouts = { 20000, 20000, 150 }, fails = codes("read_timeout") },
    ["is silent in the body"] = { steps = behind_head(nil, send(SOME_OF_9), "stall"),
                                  timeouts = { 20000, 20000, 150 }, fails = codes("read_timeout") },
    ["drips past the deadline"] = {
        steps = behind_head(nil, send(OK .. "Content-Length: 99999\r\n\r\n"),
                            function(f) return f.drip(0.02, BLOCK) end),
        request = { deadline = 400 }, fails = codes("connect_timeout", "read_timeout"),
    },
    ["has an alert"] = { steps = behind_head("1.3", alert(80)), tls = "1.3",
                         fails = codes("tls_alert") },
    ["knows not who signed"] = { steps = behind_head("1.3", alert(48)), tls = "1.3",
                                 fails = codes("client_certificate_unknown_ca") },
    ["is silent in the handshake"] = { steps = function() return { "stall" } end, is_tls = true,
                                       timeouts = { 150, 20000, 20000 },
                                       fails = codes("tls_timeout", "connect_timeout") },
    ["speaks no TLS"] = { steps = function(f) return { f.take(10), f.send(OK .. "\r\n") } end,
                          is_tls = true, fails = codes("tls_protocol_version") },
    ["ends in the handshake"] = { steps = function(f) return { f.take(10), "cut" } end,
                                  is_tls = true, fails = CLOSED },
    ["ends anywhere"] = {
        steps = function(f) return { f.limit("close", 0, 53), f.handshake, f.head, f.send(GOOD),
                                     f.drain } end,
        tls = "1.3", weight = 6, request = { keepalive = false }, may = CLOSED, answer = "good",
    },
    ["resets anywhere"] = {
        steps = function(f) return { f.limit("reset", 0, 61), f.handshake, f.head, f.send(GOOD),
                                     f.drain } end,
        tls = "1.2", weight = 6, request = { keepalive = false },
        may = codes("closed", "connect_failed"), answer = "good",
    },
    ["answers twice"] = {
        steps = function(f) return { f.head, f.send(GOOD .. OK .. "Content-Length: 4\r\n\r\nevil"),
                                     f.drain } end,
        weight = 4, answer = "good",
    },

    ["resets the stream"] = http2(codes("http2_reset"), function(f, frames)
        return { f.send(frames.reset(1, frames.INTERNAL_ERROR)), f.half_close, f.drain }
    end),
    ["refuses the stream"] = http2(codes("http2_reset"), function(f, frames)
        return { f.send(frames.reset(1, frames.REFUSED_STREAM)), f.half_close, f.drain }
    end),
    ["goes away"] = http2(codes("http2_gone_away"), function(f, frames)
        return { f.send(frames.goaway(0, frames.ENHANCE_YOUR_CALM)), f.half_close, f.drain }
    end),
    ["ends in a stream"] = http2(CLOSED, function(f, frames)
        return { f.send(frames.headers(1) .. frames.data(1, "some")), f.half_close, f.drain }
    end),
    ["has data of no stream"] = http2(codes("http_malformed"), function(f, frames)
        return { f.send(frames.frame(0, 0, 0, "x")), f.half_close, f.drain }
    end),
    ["is silent in a stream"] = {
        http2 = true, timeouts = { 20000, 20000, 150 }, fails = codes("read_timeout"),
        steps = function(f, frames)
            return { f.send(frames.SETTINGS), f.take(SOME_REQUEST), "stall" }
        end,
    },

    ["is not there"] = { calls = "nobody", fails = codes("connect_refused") },
    ["is not trusted"] = { calls = "tls", options = { ssl_trusted_certificate = "other_ca" },
                           is_tls = true, fails = codes("server_certificate_untrusted") },
    ["has another name"] = { calls = "tls", options = { ssl_server_name = "elsewhere.example" },
                             is_tls = true, fails = codes("server_name_mismatch") },
    ["has another key"] = { calls = "tls", is_tls = true, options = {
                                ssl_pinned_pubkey = "sha256//" .. ("A"):rep(43) .. "=" },
                            fails = codes("server_key_not_pinned") },
    ["speaks no HTTP/2"] = { calls = "tls", is_tls = true, options = { http_version = 2 },
                             fails = codes("http2_unsupported") },
    ["refuses the tunnel"] = { calls = "tls", is_tls = true, proxy = "closed",
                               fails = codes("proxy_refused") },
    ["gets a key of another"] = { calls = "tls", is_tls = true, has_mismatch = true,
                                  fails = codes("key_mismatch") },
    ["gets a path that is none"] = { calls = "tls", is_tls = true, request = { path = "/a b" },
                                     fails = codes("bad_argument") },
}

---@type Hostile[]
_M.list = {}
_M.by_name = scenes

for name, scene in pairs(scenes) do
    scene.name = name
    scene.weight = scene.weight or 2
    scene.timeouts = scene.timeouts or ALL
    _M.list[#_M.list + 1] = scene
end
table.sort(_M.list, function(a, b) return a.name < b.name end)


-- Runs in the gateway ------------------------------------------------------------------------

-- Names of pools that nobody uses now: a peer of HTTP/2 has one stream on each connection. The one
-- that was used longest ago comes first, and its connection has ended by then.
local free_pools = {}
for i = 1, 40 do
    free_pools[i] = "pool " .. i
end


local function request(call, scene, options, pool)
    local httpc = require("resty.mtls.http").new()
    httpc:set_timeouts(unpack(scene.timeouts))
    if scene.proxy then
        httpc:set_proxy_options(call.settings.proxies[scene.proxy])
    end
    local params = { path = "/" .. call.id, keepalive_timeout = 1000, pool = pool,
                     headers = { ["X-Pad"] = ("p"):rep(2 * SOME_REQUEST) } }
    for _, more in ipairs({ options, scene.options or {}, scene.request or {} }) do
        for name, value in pairs(more) do
            params[name] = value
        end
    end
    if params.ssl_trusted_certificate == "other_ca" then
        params.ssl_trusted_certificate = call.settings.other_ca
    end
    local port = call.settings.ports[scene.calls or "hostile " .. scene.name]
    local scheme = (scene.tls or scene.is_tls) and "https" or "http"
    -- By address: the fault server is on one of those that the name has.
    return httpc:request_uri(scheme .. "://" .. (scene.is_tls and "localhost" or "127.0.0.1")
                             .. ":" .. port, params)
end


--- Makes the call of a scene.
---@param call Call
---@param scene Hostile
function _M.run(call, scene)
    local options = {}
    if scene.tls or scene.is_tls then
        local identity = call.settings.identities["client-a"]
        local other = call.settings.identities["client-b"]
        options.ssl_cert = identity.cert
        options.ssl_key = (scene.has_mismatch and other or identity).key
        options.ssl_trusted_certificate = call.settings.ca
    end
    local pool
    if scene.http2 then
        options.http_version = 2
        pool = assert(table.remove(free_pools, 1), "more calls at a time than pools")
    end
    local res, err, details = request(call, scene, options, pool)
    if pool then
        free_pools[#free_pools + 1] = pool
    end
    if not res then
        call:must(nil, err, details)
    end
    if res.body ~= scene.answer then
        call:wrong("the answer of a hostile peer: %s", tostring(res.body):sub(1, 100))
    end
end


return _M
