--- The process behind peer.lua: every connection is a coroutine that walks through its script.
local cjson = require("cjson.safe")
local ffi = require("ffi")
local fs = require("spec.support.fs")
local socket = require("socket")

ffi.cdef [[
    int setsockopt(int fd, int level, int name, const void *value, unsigned int length);
    int shutdown(int fd, int how);
]]

local SOL_SOCKET, SO_LINGER, SHUT_WR, SHUT_RDWR = 1, 13, 1, 2

-- The coroutine of each connection waits for one of these.
local readers, writers, sleepers = {}, {}, {}

local plan = cjson.decode(fs.read(arg[1]))
local pauses = 0


local function report(connection, event)
    io.stdout:write(connection.number, " ", event, "\n")
    io.stdout:flush()
end


local function wait_for(queue, connection)
    queue[connection.socket] = coroutine.running()
    coroutine.yield()
end


local function sleep(seconds)
    sleepers[coroutine.running()] = socket.gettime() + seconds
    coroutine.yield()
end


-- Reads what is there, or waits for more. nil at the end of the stream.
local function read_some(connection)
    while true do
        local data, err, partial = connection.socket:receive(16384)
        data = data or partial
        if data and #data > 0 then
            connection.record:write(data)
            connection.record:flush()
            return data
        end
        if err == "timeout" or err == "wantread" then
            wait_for(readers, connection)
        elseif err == "wantwrite" then
            wait_for(writers, connection)
        else
            report(connection, "read: " .. tostring(err))
            return nil
        end
    end
end


local function write_all(connection, bytes)
    local sent = 0
    while sent < #bytes do
        local last, err, partial = connection.socket:send(bytes, sent + 1)
        sent = last or partial
        if err == "timeout" or err == "wantwrite" then
            wait_for(writers, connection)
        elseif err == "wantread" then
            wait_for(readers, connection)
        elseif err then
            report(connection, "write: " .. err)
            return
        end
    end
end


-- Receives until `complete` says how many bytes of what is unread belong to the step.
local function receive(connection, complete)
    while true do
        local length = complete(connection.unread)
        if length then
            connection.unread = connection.unread:sub(length + 1)
            return
        end
        local data = read_some(connection)
        if not data then
            return
        end
        connection.unread = connection.unread .. data
    end
end


local actions = {}

function actions.send(connection, step)
    write_all(connection, step.value)
end


function actions.drip(connection, step)
    for i = 1, #step.value do
        sleep(step.pause)
        write_all(connection, step.value:sub(i, i))
    end
end


function actions.receive_until(connection, step)
    receive(connection, function(unread)
        return select(2, unread:find(step.value, 1, true))
    end)
end


function actions.receive(connection, step)
    receive(connection, function(unread)
        return #unread >= step.value and step.value
    end)
end


function actions.receive_to_end(connection)
    receive(connection, function() end)
end


function actions.sleep(_, step)
    sleep(step.value)
end


function actions.pause(connection)
    pauses = pauses + 1
    local path = plan.dir .. "/resume-" .. pauses
    report(connection, "waits")
    while not fs.exists(path) do
        sleep(0.005)
    end
end


function actions.tell(connection, step)
    report(connection, step.value)
end


function actions.close(connection)
    connection.socket:close()
    connection.closed = true
end


function actions.cut(connection)
    ffi.C.shutdown(connection.socket:getfd(), SHUT_RDWR)
    actions.close(connection)
end


function actions.shutdown_send(connection)
    connection.socket:shutdown("send")
end


function actions.reset(connection)
    local linger = ffi.new("int[2]", 1, 0)
    ffi.C.setsockopt(connection.socket:getfd(), SOL_SOCKET, SO_LINGER, linger,
                     ffi.sizeof(linger))
    actions.close(connection)
end


local function handshake(connection)
    connection.socket = assert(require("ssl").wrap(connection.socket, plan.tls))
    connection.socket:settimeout(0)
    while true do
        local ok, err = connection.socket:dohandshake()
        if ok then
            report(connection, "handshake done")
            return true
        elseif err == "wantread" then
            wait_for(readers, connection)
        elseif err == "wantwrite" then
            wait_for(writers, connection)
        else
            report(connection, "handshake failed: " .. err)
            return false
        end
    end
end


local function serve(connection, script)
    report(connection, "accepted")
    if plan.tls and not handshake(connection) then
        -- Closing with something unread resets the connection, and the alert could get lost.
        ffi.C.shutdown(connection.socket:getfd(), SHUT_WR)
        sleep(1)
        connection.socket:close()
        return
    end
    for _, step in ipairs(script) do
        actions[step.action](connection, step)
        if connection.closed then
            break
        end
    end
    if not connection.closed then
        actions.close(connection)
    end
    report(connection, "closed")
end


local function resume(thread, ...)
    local ok, err = coroutine.resume(thread, ...)
    if not ok then
        io.stdout:write(debug.traceback(thread, err), "\n")
        os.exit(1)
    end
end


local function listen()
    local server
    if plan.path then
        server = require("socket.unix").stream()
        assert(server:bind(plan.path))
    else
        server = socket.tcp4()
        server:setoption("reuseaddr", true)
        assert(server:bind("127.0.0.1", plan.port))
    end
    assert(server:listen(512))
    server:settimeout(0)
    fs.write(plan.dir .. "/ready", "")
    return server
end


local function accept(server, number)
    local accepted = server:accept()
    if not accepted then
        return number
    end
    accepted:settimeout(0)
    if plan.port then
        accepted:setoption("tcp-nodelay", true)
    end
    number = number + 1
    local connection = {
        number = number, socket = accepted, unread = "",
        record = assert(io.open(plan.dir .. "/received-" .. number, "wb")),
    }
    resume(coroutine.create(serve), connection,
           plan.scripts[math.min(number, #plan.scripts)])
    return number
end


local function keys(queue, first)
    local list = { first }
    for key in pairs(queue) do
        list[#list + 1] = key
    end
    return list
end


local function wake(queue, ready)
    for _, key in ipairs(ready) do
        local thread = queue[key]
        if thread then
            queue[key] = nil
            resume(thread)
        end
    end
end


local function seconds_to_next_sleeper()
    local earliest = math.huge
    for _, deadline in pairs(sleepers) do
        earliest = math.min(earliest, deadline)
    end
    return math.max(0, math.min(60, earliest - socket.gettime()))
end


local function wake_sleepers()
    local now = socket.gettime()
    for _, thread in ipairs(keys(sleepers)) do
        if sleepers[thread] <= now then
            sleepers[thread] = nil
            resume(thread)
        end
    end
end


local server, number = listen(), 0
while true do
    local readable, writable = socket.select(keys(readers, server), keys(writers),
                                             seconds_to_next_sleeper())
    wake(readers, readable)
    wake(writers, writable)
    wake_sleepers()
    if readable[server] then
        number = accept(server, number)
    end
end
