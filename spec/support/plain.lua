--- Runs Lua chunks in plain luajit, in a process of their own.
local fs = require("spec.support.fs")
local process = require("spec.support.process")
local template = require("spec.support.template")

local _M = {}


--- The environment in which luajit finds the library.
---@return table<string, string>
function _M.env()
    return {
        LUA_PATH = fs.repo .. "/lua/?.lua;" .. fs.repo .. "/?.lua;;",
        LUA_CPATH = fs.repo .. "/build/lualib/?.so;;",
    }
end


---@class PlainOptions
---@field vars table<string, string|number>? placeholders of the chunk
---@field env table<string, string|false>?
---@field timeout number? seconds, 15 unless given
---@field core_in string? folder to run in, with leave to dump core

--- Starts a chunk; `:result()` of what this returns waits for its end.
---@param code string
---@param opts PlainOptions?
---@return Process
function _M.begin(code, opts)
    opts = opts or {}
    local path = fs.temp_dir("plain") .. "/chunk.lua"
    fs.write(path, template.expand(code, opts.vars))
    local env = _M.env()
    for name, value in pairs(opts.env or {}) do
        env[name] = value
    end
    local argv = { "luajit", path }
    if opts.core_in then
        argv = { "prlimit", "--core=unlimited", "luajit", path }
    end
    return process.begin(argv, { env = env, cwd = opts.core_in })
end


--- Runs a chunk and returns how it ended.
---@param code string
---@param opts PlainOptions?
---@return Result
function _M.run(code, opts)
    return _M.begin(code, opts):result(opts and opts.timeout or 15)
end


--- Runs a chunk that has to end well.
---@param code string
---@param opts PlainOptions?
---@return string output what it printed
function _M.run_lua(code, opts)
    local result = _M.run(code, opts)
    if result.code ~= 0 then
        error("exit code " .. result.code .. "\n" .. result.stdout .. result.stderr, 2)
    end
    return result.stdout
end


return _M
