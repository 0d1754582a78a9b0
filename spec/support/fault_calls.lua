--- The calls that go to a server of faults, made where the library runs: plain luajit or nginx.
local call = require("spec.support.call")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local memory = require("spec.support.memory")

local _M = {}

-- Bytes of a piece of a body that is streamed.
local PIECE = 65536


-- The response to `request_uri`, which has one deadline for everything.
local function within_deadline(options)
    local params = {}
    for _, source in ipairs({ options, options.request or {} }) do
        for name, value in pairs(source) do
            params[name] = value
        end
    end
    local uri = ("%s://%s:%d/"):format(options.scheme, options.host, options.port)
    local res, err, details = http.new():request_uri(uri, params)
    if not res then
        local at = ({ response = "request", body = "body" })[details.stage] or "connect"
        return { at = at, err = err, details = details }
    end
    return { at = "done", status = res.status, body = res.body }
end


-- The body in pieces, which are counted and not kept.
local function streamed(options)
    local httpc = http.new()
    httpc:set_timeout(options.timeout)
    assert(httpc:connect(options))
    local res, err, details = httpc:request(options.request or {})
    local outcome = { at = "request", err = err, details = details, length = 0 }
    while res do
        local piece
        piece, err, details = res.body_reader(PIECE)
        if not piece then
            outcome.at, outcome.err, outcome.details = err and "body" or "done", err, details
            outcome.status = not err and res.status or nil
            break
        end
        outcome.length = outcome.length + #piece
    end
    httpc:close()
    return outcome
end


--- One call.
---@param options table those of call.make. `deadline`: of request_uri, in milliseconds. `stream`:
---the body is read in pieces and only counted. `upload`: bytes of a body to send
---@return Outcome
function _M.make(options)
    if options.upload then
        options.request = options.request or {}
        options.request.method, options.request.body = "POST", ("x"):rep(options.upload)
    end
    if options.deadline then
        return within_deadline(options)
    elseif options.stream then
        return streamed(options)
    end
    return call.make(options)
end


-- Whether the condition came true, soon enough.
local function wait_until(condition)
    for _ = 1, 1000 do
        if condition() then
            return true
        end
        if ngx then
            ngx.sleep(0.01)
        else
            os.execute("sleep 0.01")
        end
    end
    return false
end


-- Nothing of the calls is left in the process.
local function settled()
    return wait_until(function()
        local stats = http.stats()
        return stats.operations_in_flight == 0 and stats.connections_open == stats.connections_idle
    end)
end


--- One call after the other, each followed by one that has to go well.
---@param list table[] options of each
---@return { outcomes: Outcome[], settled: boolean } with `grown` (megabytes) and `again`
function _M.each(list)
    local outcomes = {}
    for i, options in ipairs(list) do
        local before = memory.peak()
        local outcome = _M.make(options)
        outcome.grown = memory.peak() - before
        outcome.headers, outcome.ssl = nil, nil
        options.upload, options.deadline, options.stream, options.request = nil, nil, nil, nil
        options.timeouts = nil
        local again = call.make(options)
        outcome.again = { status = again.status, body = again.body, reused = again.reused,
                          err = again.err }
        outcomes[i] = outcome
    end
    return { outcomes = outcomes, settled = settled() }
end


--- The same call so many times.
---@param options table
---@param count integer
---@param log string? path of a file that has to say "flooding" between the first two calls
---@return { outcomes: Outcome[], settled: boolean }
function _M.repeated(options, count, log)
    local outcomes = {}
    for i = 1, count do
        local outcome = _M.make(options)
        outcome.headers, outcome.ssl = nil, nil
        outcomes[i] = outcome
        if i == 1 and log then
            wait_until(function() return fs.read(log):find("flooding", 1, true) end)
        end
    end
    return { outcomes = outcomes, settled = settled() }
end


local function told(outcome)
    if outcome.at == "done" then
        return ("done %d %s"):format(outcome.status, outcome.body)
    end
    return ("%s %s %s"):format(outcome.at, outcome.details.code, outcome.details.stage)
end


--- The same call again and again, until it has gone well so many times in a row.
---@param options table
---@param dones integer?  once unless given
---@return { runs: { what: string, count: integer }[], settled: boolean }
function _M.sweep(options, dones)
    local runs, row = {}, 0
    repeat
        local outcome = _M.make(options)
        local what, last = told(outcome), runs[#runs]
        if last and last.what == what then
            last.count = last.count + 1
        else
            runs[#runs + 1] = { what = what, count = 1 }
        end
        row = outcome.at == "done" and row + 1 or 0
    until row == (dones or 1)
    return { runs = runs, settled = settled() }
end


return _M
