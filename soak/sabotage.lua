--- Runs inside of the gateways: defects that are put in to see that a soak finds them.
local ffi = require("ffi")

local _M = {}

ffi.cdef("int dup(int fd);")

local KIB = 1024
local kept = {}

--- Of a file with a secret.
---@type string
_M.key_path = nil

local kinds = {}


--- A KiB of Lua's for each call.
kinds["leak-lua"] = function(count)
    kept[#kept + 1] = ("x"):rep(KIB) .. count
end


--- A KiB of the C library's for each call.
kinds["leak-native"] = function()
    ffi.fill(ffi.C.malloc(KIB), KIB, 1)
end


--- A file descriptor for each two-hundredth call.
kinds["leak-fd"] = function(count)
    if count % 200 == 0 then
        ffi.C.dup(1)
    end
end


--- No answer to each two-hundredth call.
kinds["lose"] = function(count)
    if count % 200 == 0 then
        ngx.exit(444)
    end
end


--- A key in the log.
kinds["tell"] = function(count)
    if count == 100 then
        local file = assert(io.open(_M.key_path, "rb"))
        ngx.log(ngx.WARN, "key: ", (file:read("*a"):gsub("\n", " ")))
        file:close()
    end
end


--- A call of the gateway.
---@param kind string? "swap" is done by the upstream
---@param count integer of calls
function _M.in_call(kind, count)
    local act = kinds[kind]
    if act then
        act(count)
    end
end


return _M
