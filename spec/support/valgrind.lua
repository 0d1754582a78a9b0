--- Runs Lua chunks in plain luajit under valgrind: tools/valgrind says how.
local fs = require("spec.support.fs")
local plain = require("spec.support.plain")
local process = require("spec.support.process")
local template = require("spec.support.template")

local _M = {}

--- Exit code if valgrind has found something.
_M.FOUND = 99


---@return boolean
function _M.is_here()
    return process.run({ "sh", "-c", "command -v valgrind" }).code == 0
end


--- Runs a chunk to its end.
---@param code string
---@param vars table<string, string|number>?
---@return Result result
---@return string report what valgrind says; empty if it found nothing
function _M.run(code, vars)
    local dir = fs.temp_dir("valgrind")
    fs.write(dir .. "/chunk.lua", template.expand(code, vars))
    local env = plain.env()
    env.VALGRIND_LOG = dir .. "/log"
    local result = process.run({ fs.repo .. "/tools/valgrind", dir .. "/chunk.lua" },
                               { env = env, timeout = 300 })
    return result, fs.read(dir .. "/log") or ""
end


return _M
