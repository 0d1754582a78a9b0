--- One operation of a native client, from its beginning to its outcome.

local wait = require("resty.mtls.wait")


local _M = {}


--- Begins an operation and waits until it is complete.
---@param client userdata
---@param begin string method of the native client
---@param ... any its arguments behind the mailbox and the id
---@return any? begun what the method returned behind `true`, or else true
---@return integer|string|nil id_or_err the operation's id, for its outcome
---@return table? details
function _M.run(client, begin, ...)
    local mode, err, details = wait.mode()
    if not mode then
        return nil, err, details
    end
    local mailbox, id = wait.operation()
    local ok, more
    ok, more, details = client[begin](client, mailbox, id, ...)
    if not ok then
        return nil, more, details
    end
    local done
    done, err, details = wait.finish(mode, id)
    if not done then
        return nil, err, details
    end
    if more ~= nil then
        return more, id
    end
    return true, id
end


--- Begins an operation that brings no response, waits, and returns how it ended.
---@param client userdata
---@param begin string
---@param ... any
---@return any? begun
---@return string? err
---@return table? details
function _M.conclude(client, begin, ...)
    local begun, id, details = _M.run(client, begin, ...)
    if begun == nil then
        return nil, id, details
    end
    local ok, err
    ok, err, details = client:outcome(id)
    if not ok then
        return nil, err, details
    end
    return begun
end


return _M
