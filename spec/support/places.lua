--- Where the library runs: plain luajit, and nginx. A chunk may run in each of them by itself.
---
---     for _, place in ipairs(places) do
---         it("does so in " .. place.name, function()
---             local output, log = place.run([[ print("hello") ]], { up = upstream.port })
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")

---@class Place
---@field name string
---@field run fun(code: string, vars: table<string, string|number>?): string, string runs a chunk
---in a process of its own that has ended afterwards; gives what it printed, and the log: stderr, or
---nginx's error log

local TIMEOUT = 30

---@type Place[]
return {
    {
        name = "plain luajit",
        run = function(code, vars)
            local result = plain.run(code, { vars = vars, timeout = TIMEOUT })
            if result.code ~= 0 then
                error("exit code " .. result.code .. "\n" .. result.stdout .. result.stderr, 2)
            end
            return result.stdout, result.stderr
        end,
    },
    {
        name = "nginx",
        run = function(code, vars)
            local gateway = nginx.gateway()
            local ok, output = pcall(gateway.run, gateway, code, { vars = vars, timeout = TIMEOUT })
            gateway:stop()
            if not ok then
                error(output, 2)
            end
            return output, gateway:error_log()
        end,
    },
}
