--- Waiting for an operation of the native library, without blocking nginx.
--
-- A light thread that waits holds a semaphore. One dispatcher light thread per Lua VM reads the
-- wake socket, takes all completed operations at once, and posts their semaphores. It starts with
-- the first operation and ends a little after the last one, so that an idle worker has no timer
-- and can exit. docs/design.md has the picture.

local log = require("resty.mtls.log")
local native = require("resty.mtls.native")

local next = next
local pcall = pcall
local tostring = tostring


local _M = {}


local yields = {
    rewrite = true,
    server_rewrite = true,
    access = true,
    content = true,
    timer = true,
    preread = true,
    ssl_cert = true,
    ssl_session_fetch = true,
    ssl_client_hello = true,
}

-- Before the event loop runs there is nobody else to serve, so the process may wait.
local blocks = {
    init = true,
    init_worker = true,
}

-- As ngx_lua spells them in "API disabled in the context of ...".
local contexts = {
    set = "set_by_lua*",
    header_filter = "header_filter_by_lua*",
    body_filter = "body_filter_by_lua*",
    log = "log_by_lua*",
    balancer = "balancer_by_lua*",
    ssl_session_store = "ssl_session_store_by_lua*",
    exit_worker = "exit_worker_by_lua*",
}

-- Beyond every deadline that the native library keeps itself.
local BLOCK_MS = 24 * 3600 * 1000

-- How long a dispatcher that was asked for may take to start, before a waiting light thread helps
-- itself: nginx drops timers without a word to their owner when lua_max_running_timers is reached.
local START_S = 0.1
-- How often a waiting light thread makes sure that there is a dispatcher.
local CHECK_S = 5
-- How long nobody tries again to have a wake socket after it has failed: nginx may write a line
-- into its log for each try, and a thousand light threads may wait.
local RETRY_S = 0.1

local mailbox = native.mailbox()
local last_id = 0

-- id of an operation -> semaphore of the light thread that waits for it
local waiting = {}
local free_semaphores = {}
local completed = {}

-- nil, "starting", or "reading" its wake socket
local dispatcher
local had_timer = false

-- When a wake socket may be tried again.
local retry_at = 0
-- Semaphore of the light thread that is to dispatch next, where there is no dispatcher.
local successor

local semaphore
local get_phase = ngx and ngx.get_phase


--- Whether an operation may be begun here, and how its end is waited for.
---@return "yield"|"block"|nil mode
---@return string? err
---@return table? details
function _M.mode()
    if not get_phase then
        return "block"
    end
    local phase = get_phase()
    if yields[phase] then
        return "yield"
    end
    if blocks[phase] then
        return "block"
    end
    local context = contexts[phase] or phase
    return nil, "API disabled in the context of " .. context, {
        code = "api_disabled",
        stage = "options",
        hint = "nginx cannot wait in this phase: make the request in rewrite, access or content, "
            .. "or in a timer (ngx.timer.at)",
    }
end


--- What an operation of a native client is begun with: the mailbox and a new id.
---@return userdata mailbox
---@return integer id
function _M.operation()
    last_id = last_id + 1
    return mailbox, last_id
end


local function post_completed()
    local count, idle, has_log = mailbox:drain(completed)
    if not count then
        return true
    end
    for i = 1, count do
        local id = completed[i]
        local sema = waiting[id]
        -- Without a semaphore: its light thread was not waiting yet, or gave up.
        if sema then
            waiting[id] = nil
            sema:post(1)
        end
    end
    if has_log then
        log.flush()
    end
    return idle
end


local function connect_wake_socket()
    local sock, err = ngx.socket.tcp()
    if not sock then
        return nil, err
    end
    -- A time-out would be logged by nginx as an error. The native library sends a byte when there
    -- is nothing to wait for any more.
    sock:settimeouts(1000, 1000, 0x7fffffff)

    local number, address, port, token = mailbox:listen(ngx.config.prefix())
    if not number then
        return nil, address
    end
    local ok
    if port then
        ok, err = sock:connect(address, port)
        if ok then
            ok, err = sock:send(token)
        end
    else
        ok, err = sock:connect(address)
    end
    if not ok then
        mailbox:forget(number)
        sock:close()
        return nil, err
    end
    local waker
    waker, err = mailbox:accept(number)
    if not waker then
        sock:close()
        return nil, err
    end
    return sock, waker
end


-- Dispatches until the operation `id` is complete, or, without one, until nothing is in flight.
local function dispatch(id)
    retry_at = ngx.now() + RETRY_S
    local sock, waker = connect_wake_socket()
    if not sock then
        return nil, waker
    end
    retry_at = 0
    if not id then
        dispatcher = "reading"
    end
    local err
    while not id or waiting[id] do
        local byte
        byte, err = sock:receive(1)
        local idle = post_completed()
        if not byte or (idle and not id) then
            break
        end
    end
    if not id then
        -- Before anything that might yield: an operation that begins now needs a new dispatcher.
        dispatcher = nil
    end
    mailbox:remove(waker)
    sock:close()
    return true, err
end


local start_dispatcher


local function run_dispatcher()
    -- Also when the timer is premature: requests in flight finish before the worker exits.
    local ok, done, err = pcall(dispatch)
    dispatcher = nil
    if not (ok and done) then
        ngx.log(ngx.ERR, "resty.mtls: cannot dispatch: ", tostring(ok and err or done))
    end
    if next(waiting) and ok and done then
        start_dispatcher()
    end
end


function start_dispatcher()
    -- ngx_lua watches for the end of the worker from its first timer on. If that comes when the
    -- worker is exiting already, what watches stays, and nginx logs an [alert] of an open socket.
    local is_late = not had_timer and ngx.worker.exiting()
    if ngx.now() >= retry_at and not is_late and ngx.timer.at(0, run_dispatcher) then
        dispatcher, had_timer = "starting", true
    end
    return dispatcher ~= nil
end


-- Dispatches in place of a dispatcher that does not come: for all who wait, until `id` is complete.
local function help(id)
    dispatcher = nil
    -- Somebody else does, or will soon.
    if mailbox:is_heard() or ngx.now() < retry_at then
        post_completed()
        return
    end
    if not dispatch(id) then
        -- No socket to be had: nginx is out of connections, and says so in its log.
        post_completed()
        return
    end
    -- Another one goes on.
    local _, sema = next(waiting)
    if sema and not mailbox:is_heard() then
        successor = sema
        sema:post(1)
    end
end


local function yield_until(id)
    semaphore = semaphore or require("ngx.semaphore")
    local count = #free_semaphores
    local sema = free_semaphores[count]
    if sema then
        free_semaphores[count] = nil
    else
        local err
        sema, err = semaphore.new(0)
        if not sema then
            return nil, "cannot wait: " .. tostring(err), {
                code = "internal",
                stage = "options",
                hint = "nginx has no semaphore to give: see its error log",
            }
        end
    end

    waiting[id] = sema
    if not dispatcher and not start_dispatcher() then
        help(id)
    end
    while true do
        local posted = sema:wait(dispatcher == "reading" and CHECK_S or START_S)
        if posted and not waiting[id] then
            break
        elseif waiting[id] and dispatcher ~= "reading" then
            help(id)
        end
    end
    -- A light thread that is killed never comes here: its semaphore is collected with it. So is one
    -- that may have been posted twice.
    if successor == sema then
        successor = nil
    else
        free_semaphores[#free_semaphores + 1] = sema
    end
    return true
end


--- Waits until operation `id`, which has been begun, is complete.
---@param mode "yield"|"block" from `mode()`
---@param id integer from `operation()`
---@return boolean? ok
---@return string? err
---@return table? details
function _M.finish(mode, id)
    if mode == "yield" then
        return yield_until(id)
    end
    local ok, err, details = mailbox:block(id, BLOCK_MS)
    log.flush()
    return ok, err, details
end


return _M
