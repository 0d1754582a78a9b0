--- The specs run on OpenResty's luajit2, as nginx does. Here some of them, those about what plain
--- luajit does in this process and in children, run on upstream's LuaJIT.
local process = require("spec.support.process")

local SPECS = { "plain", "request", "response", "http2", "robustness" }

-- What is looked at of an interpreter: OpenResty's branch has modules of its own.
local ABOUT = [[
    local ffi = require("ffi")
    local is_openresty = pcall(require, "thread.exdata")
    io.write(jit.version, " for ", jit.arch, ", GC64 ", ffi.abi("gc64") and "on" or "off",
             is_openresty and ", OpenResty's" or ", upstream's")
]]


describe("upstream's LuaJIT", function()
    it("runs specs as OpenResty's does", function()
        local found = process.run({ "tools/other-luajit" }, { timeout = 120 })
        if found.code ~= 0 then
            pending(found.stderr)
            return
        end
        local dir = found.stdout:match("([^\n]+)\n$")
        local about = process.check({ dir .. "/luajit", "-e", ABOUT })
        assert.matches("upstream's$", about)
        assert.matches("OpenResty's$", process.check({ "luajit", "-e", ABOUT }))

        local argv = { dir .. "/luajit", "/usr/bin/busted" }
        for _, name in ipairs(SPECS) do
            argv[#argv + 1] = "spec/" .. name .. "_spec.lua"
        end
        -- Children that are called luajit are of it, too.
        local result = process.run(argv, {
            env = { PATH = dir .. ":" .. os.getenv("PATH") }, timeout = 300,
        })
        local count = tonumber(result.stdout:match("(%d+) success"))
        assert.matches("%d+ successes / 0 failures / 0 errors / 0 pending", result.stdout)
        assert.equals(0, result.code, result.stderr)
        assert.is_true(count >= 80, result.stdout)
        print(("%s: %d specs"):format(about, count))
    end)
end)
