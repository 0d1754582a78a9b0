--- Runs inside of the gateway: what all ways of calling have in common. A call asks for bodies
--- under ids that nobody else has, and takes nothing for right but what was asked for.
---
--- What goes wrong is raised: as a failure, with what the library said, or as a finding.
local bodies = require("soak.body")
local http = require("resty.mtls.http")
local random = require("soak.random")

local _M = {}

--- Ids that a call may use are this many.
_M.IDS = 32

-- Idle connections go soon, so that the worker comes to rest soon.
local IDLE, POOL_SIZE = 1500, 30

-- Milliseconds: nothing should take so long, and what is shaken may.
local PATIENCE, SHORT_PATIENCE = 40000, 3000

---@class Call
---@field id integer
---@field random Random
---@field target Target
---@field who Who
---@field settings table
local Call = {}
Call.__index = Call


---@param settings table
---@param given { id: integer, seed: integer, target: Target, who: Who }
---@return Call
function _M.new(settings, given)
    return setmetatable({
        id = given.id, random = random.new(given.seed, given.id), target = given.target,
        who = given.who, settings = settings, used = 0,
    }, Call)
end


--- Raises that something is not as it has to be.
function Call.wrong(_, ...)
    error({ finding = string.format(...) }, 0)
end


--- What a function of the library returned, unless it failed.
function Call.must(_, value, err, details)
    if not value then
        details = type(details) == "table" and details or {}
        error({ code = details.code or "none", stage = details.stage or "", err = tostring(err) },
              0)
    end
    return value
end


--- Calls a function for each number in a light thread of its own, and raises what one of them did.
function Call.side_by_side(_, count, fn)
    local threads, failure = {}, nil
    for i = 1, count do
        -- ngx_lua would log what a light thread raises.
        threads[i] = ngx.thread.spawn(function()
            local ok, raised = pcall(fn, i)
            if not ok then
                failure = type(failure) == "table" and failure.finding and failure or raised
            end
        end)
    end
    for i = 1, count do
        ngx.thread.wait(threads[i])
    end
    if failure then
        error(failure, 0)
    end
end


function Call:client()
    local httpc = http.new()
    local patience = self.target.is_shaky and SHORT_PATIENCE or PATIENCE
    httpc:set_timeouts(patience, patience, patience)
    if self.target.proxy then
        httpc:set_proxy_options(self.settings.proxies[self.target.proxy])
    end
    return httpc
end


--- Options of `connect` for the target, as the one who this call is made as.
---@return table
function Call:options()
    local target = self.target
    local port = self.settings.ports[target.server]
    local options = { scheme = target.scheme, host = "localhost", port = port,
                      http_version = target.http_version }
    if target.server == "unix" then
        options.host, options.port = "unix:" .. self.settings.socket, nil
    end
    if target.scheme == "https" then
        options.ssl_trusted_certificate = self.settings.ca
        for name, value in pairs(self.who.options) do
            options[name] = value
        end
        for name, value in pairs(target.options or {}) do
            options[name] = value
        end
    end
    return options
end


---@return string uri of the target, without a path
function Call:uri()
    return self.target.scheme .. "://localhost:" .. self.settings.ports[self.target.server]
end


--- Most bodies are small.
---@return integer bytes
function Call:size()
    local kind = self.random:upto(20)
    if kind == 1 then
        return 0
    elseif kind <= 14 then
        return self.random:upto(4000)
    elseif kind <= 19 then
        return self.random:upto(60000)
    end
    return self.random:upto(400000)
end


---@class Want what is asked for
---@field id integer
---@field n integer bytes of the body that is wanted
---@field up integer bytes of the body that is sent
---@field how "length"|"chunked"
---@field status integer
---@field method string
---@field more string? further arguments

--- A request with an id of its own.
---@param more table? in place of what would be at random
---@return Want
function Call:want(more)
    assert(self.used < _M.IDS)
    local want = { id = self.id * _M.IDS + self.used, up = 0, status = 200, method = "GET" }
    self.used = self.used + 1
    for name, value in pairs(more or {}) do
        want[name] = value
    end
    want.n = want.n or self:size()
    want.how = want.how or self.random:pick({ "length", "chunked" })
    return want
end


--- The parameters of a request for it.
---@param want Want
---@return table
function Call.params(_, want)
    local query = string.format("id=%d&n=%d&up=%d&how=%s&status=%d%s", want.id, want.n, want.up,
                                want.how, want.status, want.more or "")
    local params = {
        method = want.method, path = want.path or "/soak", query = query,
        headers = { ["X-Id"] = tostring(want.id), Host = "localhost" },
    }
    if want.up > 0 then
        params.body = bodies.bytes(want.id, want.up)
    end
    return params
end


--- The whole body that has to come.
---@return string
function Call.body_of(_, want, subject)
    return want.id .. " " .. subject .. "\n" .. bodies.bytes(want.id, want.n)
end


-- The version of TLS, and that nothing was resumed where that was not wanted.
function Call:check_session(headers)
    local target = self.target
    local reuse = not target.options or target.options.ssl_session_reuse ~= false
    if headers["X-Tls"] ~= target.tls or headers["X-Resumed"] == "r" and not reuse then
        self:wrong("the session is one of %s, resumed: %s", headers["X-Tls"], headers["X-Resumed"])
    end
end


--- Is this the head that was asked for? It gives whom the server saw.
---@return string subject
function Call:check_head(res, want)
    local headers = res.headers
    local id, subject = tostring(headers["X-Id"]), headers["X-Subject"] or ""
    if id ~= tostring(want.id) then
        self:wrong("the head is for %s, and %d was asked (status %s)", id, want.id, res.status)
    end
    if res.status ~= want.status then
        self:wrong("status %s in place of %d: %s", res.status, want.status,
                   tostring(res:read_body()):sub(1, 200))
    end
    if self.target.scheme ~= "https" and subject ~= ""
            or self.target.scheme == "https" and not self.who.subjects[subject] then
        self:wrong("was seen as %q, and is %s", subject, self.who.name)
    end
    local version = headers["X-Protocol"]
    if version ~= self.target.protocol and not self.target.proxy then
        self:wrong("was seen with %s", version)
    end
    if tonumber(headers["X-Up"]) ~= want.up then
        self:wrong("%s bytes of the body were seen, and %d sent", headers["X-Up"], want.up)
    end
    if self.target.scheme == "https" then
        self:check_session(headers)
    end
    self.subject = subject
    return subject
end


--- Is this the answer that was asked for?
function Call:check(res, body, want)
    local subject = self:check_head(res, want)
    local has_none = want.method == "HEAD" or want.status == 204 or want.status == 304
    local expected = has_none and "" or self:body_of(want, subject)
    if body ~= expected then
        self:wrong("body of %d: %s", want.id, bodies.difference(expected, body))
    end
end


--- One request on a connection, and its whole answer.
function Call:exchange(httpc, want, params)
    local res = self:must(httpc:request(params or self:params(want)))
    self:check(res, self:must(res:read_body()), want)
end


-- What leads to connections of HTTP/2 that this worker has had.
local shared = {}


local function note_shared(call, options)
    if call.target.http_version then
        local key = table.concat({ call.target.name, call.who.name, options.pool or "" }, "\t")
        shared[key] = shared[key] or function()
            local httpc, again = call:client(), call:options()
            again.pool, again.pool_size = options.pool, options.pool_size
            again.backlog = options.backlog
            return httpc:connect(again) and httpc
        end
    end
end


--- For a worker that comes to rest: has connections of HTTP/2 end soon. One is open for a minute,
--- unless somebody who has given it back has said for how long; and who had it may have closed, or
--- have been killed.
function _M.end_shared()
    for _, connect in pairs(shared) do
        local httpc = connect()
        if httpc then
            httpc:set_keepalive(100, 1)
        end
    end
end


--- A client that is connected.
function Call:connected(more)
    local httpc, options = self:client(), self:options()
    for name, value in pairs(more or {}) do
        options[name] = value
    end
    note_shared(self, options)
    self:must(httpc:connect(options))
    return httpc
end


--- Mostly keeps the connection, else closes it.
function Call:give_back(httpc)
    if self.random:one_in(5) then
        httpc:close()
        return
    end
    local ok, err = httpc:set_keepalive(IDLE, POOL_SIZE)
    -- A shaky server may have ended by now.
    if not ok and not self.target.is_shaky then
        self:wrong("set_keepalive: %s", tostring(err))
    end
end


--- Parameters of request_uri: those of the request, and options of `connect`.
function Call:uri_params(params)
    for name, value in pairs(self:options()) do
        params[name] = value
    end
    note_shared(self, params)
    params.scheme, params.host, params.port = nil, nil, nil
    params.keepalive = not self.random:one_in(5)
    params.keepalive_timeout, params.keepalive_pool = IDLE, POOL_SIZE
    return params
end


return _M
