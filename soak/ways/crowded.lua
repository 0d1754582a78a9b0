--- Runs inside of the gateways. Ways of calling with several requests at a time, and those that end
--- before their answer is there.
local _M = {}


function _M.pipeline(call)
    local httpc = call:connected()
    local wants, all = {}, {}
    for i = 1, call.random:between(2, 6) do
        wants[i] = call:want({ n = call.random:upto(30000) })
        all[i] = call:params(wants[i])
    end
    local responses = call:must(httpc:request_pipeline(all))
    for i, res in ipairs(responses) do
        -- What could not be read is logged, and its fields are nil.
        if not res.status then
            call:must(nil, "a pipelined response", { code = "pipelined" })
        end
        call:check(res, call:must(res:read_body()), wants[i])
    end
    call:give_back(httpc)
end


--- Several light threads, with a client each; over HTTP/2 they share a connection.
function _M.streams(call)
    call:side_by_side(call.random:between(3, 10), function()
        local httpc = call:connected()
        call:exchange(httpc, call:want())
        call:exchange(httpc, call:want())
        call:give_back(httpc)
    end)
end


--- Gives a connection back that owes an answer, which somebody else must not get.
function _M.owing(call)
    local httpc = call:connected()
    call:exchange(httpc, call:want())
    call:must(httpc:send_request(call:params(call:want())))
    if httpc:set_keepalive(1500) == 1 then
        call:wrong("a connection that owes an answer was kept")
    end
end


--- A light thread that is killed at any moment of its call.
function _M.killed(call)
    local want = call:want({ n = call.random:upto(300000), up = call.random:upto(100000),
                             method = "POST",
                             more = string.format("&wait=%.3f", call.random:upto(50) / 1000) })
    local raised
    local thread = ngx.thread.spawn(function()
        local ok, failure = pcall(function()
            local httpc = call:connected()
            call:exchange(httpc, want)
            call:give_back(httpc)
        end)
        raised = not ok and failure
    end)
    ngx.sleep(call.random:upto(120) / 1000)
    if ngx.thread.kill(thread) then
        return
    end
    ngx.thread.wait(thread)
    if raised then
        error(raised, 0)
    end
end


--- More callers than places and those who may wait for one. The first call decides on the size, so
--- it is the same for all; the places are those of a worker.
function _M.backlog(call)
    call:side_by_side(call.random:between(2, 6), function()
        local httpc = call:connected({ pool = "few places", pool_size = 3, backlog = 4 })
        call:exchange(httpc, call:want({ n = call.random:upto(2000) }))
        httpc:set_keepalive(1500, 3)
    end)
end


function _M.bounded(call)
    local httpc = call:connected()
    local want = call:want({ n = call.random:between(20000, 200000) })
    local params = call:params(want)
    params.max_body_size = 10000
    local res = call:must(httpc:request(params))
    call:must(res:read_body())
end


function _M.deadline(call)
    local want = call:want({ more = "&wait=5" })
    local params = call:uri_params(call:params(want))
    params.deadline = call.random:upto(200)
    call:must(call:client():request_uri(call:uri() .. params.path, params))
end


function _M.impatient(call)
    local httpc = call:connected()
    httpc:set_timeouts(20000, 20000, call.random:upto(200))
    call:must(httpc:request(call:params(call:want({ more = "&wait=5" }))))
end


return _M
