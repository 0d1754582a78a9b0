--- What has to happen before this Lua process ends, however it ends: last registered, first done.
local _M = {}

local actions = {}


local function run_all()
    for i = #actions, 1, -1 do
        local ok, err = pcall(actions[i])
        if not ok then
            io.stderr:write("cleanup: ", tostring(err), "\n")
        end
        actions[i] = nil
    end
end


-- Lua 5.1 has no exit hook, but closing the state collects every object, the youngest first. The
-- sentinel has to be younger than the native modules that the actions use: they are unloaded too.
local function renew_sentinel()
    _M.sentinel = newproxy(true)
    getmetatable(_M.sentinel).__gc = function(object)
        if object == _M.sentinel then
            run_all()
        end
    end
end


--- Registers `action` for the end of the process. Call it after loading all that the action needs.
---@param action fun()
function _M.at_exit(action)
    actions[#actions + 1] = action
    renew_sentinel()
end


return _M
