--- A process of plain luajit in whose memory secrets are looked for: chunks, and how to go on with
--- them step by step.
local fs = require("spec.support.fs")
local key_parts = require("spec.support.key_parts")
local memory = require("spec.support.process_memory")
local plain = require("spec.support.plain")
local process = require("spec.support.process")

local _M = {}

-- `secret` reads a file into a string and leaves nothing of it elsewhere in the memory of Lua;
-- `forget` wipes that string. What is found then is the library's own.
_M.HELPERS = [[
    local ffi = require("ffi")
    ffi.cdef("int open(const char *, int, ...); long read(int, void *, size_t); int close(int);"
        .. "int usleep(unsigned int);")

    local function secret(path)
        local fd = ffi.C.open(path, 0)
        local buffer = ffi.new("char[65536]")
        local size = tonumber(ffi.C.read(fd, buffer, 65536))
        ffi.C.close(fd)
        local text = ffi.string(buffer, size)
        ffi.fill(buffer, 65536)
        return text
    end

    local function forget(text)
        ffi.fill(ffi.cast("char *", ffi.cast("const char *", text)), #text)
    end

    -- Tells that it has come so far, and waits for leave to go on.
    local function step(name, ...)
        print(name, ...)
        io.flush()
        local file
        repeat
            ffi.C.usleep(2000)
            file = io.open("${steps}/" .. name)
        until file
        file:close()
    end
]]


---@class Secretive
---@field child Process
---@field cwd string
local Secretive = {}
Secretive.__index = Secretive


--- Starts a chunk. It has `secret`, `forget` and `step`.
---@param code string
---@param vars table<string, string|number>
---@return Secretive
function _M.start(code, vars)
    vars.steps = fs.temp_dir("steps")
    local cwd = fs.temp_dir("core")
    local child = plain.begin(_M.HELPERS .. code, { vars = vars, core_in = cwd })
    return setmetatable({ child = child, cwd = cwd, steps = vars.steps }, Secretive)
end


--- Waits for a step.
---@param name string
---@return string ... what the chunk has told with it
function Secretive:at(name)
    local line
    process.wait_until("step '" .. name .. "'", function()
        line = ("\n" .. self.child:output()):match("\n(" .. name .. "[^\n]*)\n")
        if not line and not self.child:is_running() then
            error(self.child:output() .. fs.read(self.child.stderr))
        end
        return line
    end, 30)
    local told = {}
    for word in line:gmatch("[^\t]+") do
        told[#told + 1] = word
    end
    return unpack(told, 2)
end


--- Lets it go on from a step.
---@param name string
function Secretive:go_on(name)
    fs.write(self.steps .. "/" .. name, "")
end


--- What is in its memory now.
---@param pieces Piece[]
---@return table<string, integer> counts
---@return integer total
function Secretive:find(pieces)
    return key_parts.find(pieces, memory.read(self.child.pid))
end


return _M
