--- Errors that are found before the native library is asked.

local _M = {}


--- An option or parameter that cannot be what it is.
---@param message string
---@return nil
---@return string err
---@return resty.mtls.details details
function _M.bad_argument(message)
    return nil, message, {
        code = "bad_argument",
        stage = "options",
        hint = "correct the option that the message names",
    }
end


return _M
