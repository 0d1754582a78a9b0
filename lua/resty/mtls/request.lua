--- Requests: sending them, with bodies that come in pieces, and reading their responses.

local operation = require("resty.mtls.operation")
local responses = require("resty.mtls.response")
local steps = require("resty.mtls.steps")

local concat = table.concat
local find = string.find
local ipairs = ipairs
local pcall = pcall
local tostring = tostring
local type = type


local _M = {}


-- Phases in which the headers of the request that is being served can be read.
local request_phases = {
    set = true,
    rewrite = true,
    server_rewrite = true,
    access = true,
    content = true,
}

local get_phase = ngx and ngx.get_phase


-- The trace that the request being served belongs to goes on in the requests made for it.
local function traceparent()
    if get_phase and request_phases[get_phase()] then
        return ngx.var.http_traceparent
    end
end


-- Half a request is on the wire: the connection is of no use to anybody.
local function bad_body(self, message)
    self.client:close()
    return nil, message, {
        code = "bad_argument",
        stage = "send",
        hint = "correct the iterator that was given as the request's body",
    }
end


local function to_string(chunk)
    if type(chunk) == "string" then
        return chunk
    elseif type(chunk) == "number" then
        return tostring(chunk)
    elseif type(chunk) == "table" then
        local parts = {}
        for i, part in ipairs(chunk) do
            parts[i] = to_string(part)
            if not parts[i] then
                return nil
            end
        end
        return concat(parts)
    end
end


-- Sends what an iterator yields.
local function send_pieces(self, params)
    while true do
        local ok, chunk, err, partial = pcall(params.body)
        if not ok then
            return bad_body(self, "the request body iterator failed: " .. tostring(chunk))
        end
        if chunk == nil then
            if err ~= nil then
                self.client:close()
                return nil, err, partial
            end
            return self.client:finish_body()
        end
        chunk = to_string(chunk)
        if not chunk then
            return bad_body(self, "a request body iterator has to return strings")
        end
        if chunk ~= "" then
            local details
            ok, err, details = operation.conclude(self.client, "send", chunk)
            if not ok then
                return nil, err, details
            end
        end
    end
end


local function send_body(self, params)
    if type(params.body) == "function" then
        return send_pieces(self, params)
    end
    return operation.conclude(self.client, "send", to_string(params.body) or "")
end


-- The server may have answered before it had all of the body, and then closed its side.
local function read_early_response(self, params, err, details)
    if type(details) == "table" and details.code == "closed" and details.stage == "send" then
        local res, why, more = _M.receive(self, params)
        if res then
            self.keepalive = false
            return res
        end
        -- A stream that was reset ends with a reason.
        if type(more) == "table" and find(more.code, "^http2_") then
            return nil, why, more
        end
    end
    return nil, err, details
end


local function respond(self, id)
    local res, err, details = responses.new(self, id)
    if not res then
        return nil, err or "closed", details
    end
    return res
end


local function log_head(self, params)
    if self.debugging then
        steps.sending(self.client:show(params, self._USER_AGENT, traceparent()))
    end
end


function _M.send(self, params)
    log_head(self, params)
    local waits, err, details = operation.conclude(self.client, "send_request", params,
        self._USER_AGENT, traceparent())
    if waits == nil then
        return nil, err, details
    end
    self.current_response = nil
    -- With "Expect: 100-continue" the body is sent when the response is read.
    self.body_waits = waits == true
    if type(params.body) == "function" and not self.body_waits then
        local ok
        ok, err, details = send_body(self, params)
        if not ok then
            return nil, err, details
        end
    end
    return true
end


function _M.receive(self, params)
    if self.body_waits then
        self.body_waits = false
        local ok, id, details = operation.run(self.client, "await_continue", params)
        if not ok then
            return nil, id, details
        end
        local res, err
        res, err, details = responses.new(self, id)
        if res then
            return res
        elseif res == nil then
            return nil, err, details
        end
        ok, err, details = send_body(self, params)
        if not ok then
            return read_early_response(self, params, err, details)
        end
    end
    local ok, id, details = operation.run(self.client, "receive", params)
    if not ok then
        return nil, id, details
    end
    return respond(self, id)
end


local function request_in_pieces(self, params)
    local ok, err, details = _M.send(self, params)
    if ok then
        return _M.receive(self, params)
    end
    local res
    res, err, details = read_early_response(self, params, err, details)
    if not res then
        -- Unless nothing has been sent: then it is as good as before.
        if not (type(details) == "table" and details.stage == "options") then
            self.client:close()
        end
        return nil, err, details
    end
    return res
end


function _M.request(self, params)
    self.current_response = nil
    if type(params.body) == "function" then
        return request_in_pieces(self, params)
    end
    log_head(self, params)
    local ok, id, details = operation.run(self.client, "request", params, self._USER_AGENT,
        traceparent())
    if not ok then
        return nil, id, details
    end
    return respond(self, id)
end


return _M
