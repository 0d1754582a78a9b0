--- Copies of the library in folders of their own, some of them of other versions.
---
---     local dir = copies.make("9.9.9")
---     plain.run_lua(copies.LOADER .. [[ local other = load_copy(${dir}) … ]])
---
--- A copy of another version is this one with other numbers in it: what is to be shown is that two
--- do not get into each other's way, and for that they need not do different things.
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}


--- Makes a copy.
---@param version string? as long as the real one; that unless given
---@return string dir
function _M.make(version)
    local dir = fs.temp_dir("copy")
    process.check({ "cp", "-r", fs.repo .. "/lua/resty", dir })
    local library = fs.read(fs.repo .. "/build/lualib/resty/mtls/native.so")
    if version then
        local real = require("resty.mtls.http")._VERSION
        assert(#version == #real, "a version has to be as long as " .. real)
        library = library:gsub(real:gsub("%.", "%%."), version)
    end
    fs.write(dir .. "/resty/mtls/native.so", library)
    return dir
end


--- `load_copy(dir)`: the module http of a copy, in a Lua VM that may have others. `load_copies()`
--- gives those of the folders that the placeholders ${first} and ${second} name, by VM.
_M.LOADER = [[
    local function load_copy(dir)
        local path, cpath, present = package.path, package.cpath, {}
        for name, module in pairs(package.loaded) do
            if name:find("^resty%.mtls%.") then
                present[name], package.loaded[name] = module, nil
            end
        end
        package.path, package.cpath = dir .. "/?.lua;" .. path, dir .. "/?.so;" .. cpath
        local http = require("resty.mtls.http")
        for name in pairs(package.loaded) do
            if name:find("^resty%.mtls%.") then
                package.loaded[name] = nil
            end
        end
        for name, module in pairs(present) do
            package.loaded[name] = module
        end
        package.path, package.cpath = path, cpath
        return http
    end

    local function load_copies()
        local loaded = package.loaded["copies of the spec"]
        if not loaded then
            loaded = { load_copy("${first}"), load_copy("${second}") }
            package.loaded["copies of the spec"] = loaded
        end
        return loaded
    end
]]


return _M
