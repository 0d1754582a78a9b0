--- Where the library runs: plain luajit, and nginx. A chunk may run in each of them by itself.
---
---     for _, place in ipairs(places) do
---         it("does so in " .. place.name, function()
---             local output, log = place.run([[ print("hello") ]], { up = upstream.port })
---
--- Chunks that mostly wait may do that at the same time:
---
---             local finish = place.begin([[ … ]])
---             …
---             local output, log = finish()
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")

---@class Place
---@field name string
---@field begin fun(code: string, vars: table<string, string|number>?): fun(): string, string starts
---a chunk in a process of its own
---@field run fun(code: string, vars: table<string, string|number>?): string, string the same to its
---end; gives what it printed, and the log: stderr, or nginx's error log

local TIMEOUT = 30

---@type Place[]
local places = {
    {
        name = "plain luajit",
        begin = function(code, vars)
            local process = plain.begin(code, { vars = vars })
            return function()
                local result = process:result(TIMEOUT)
                if result.code ~= 0 then
                    error("exit code " .. result.code .. "\n" .. result.stdout .. result.stderr, 2)
                end
                return result.stdout, result.stderr
            end
        end,
    },
    {
        name = "nginx",
        begin = function(code, vars)
            local gateway = nginx.gateway()
            local run = gateway:begin(code, { vars = vars })
            return function()
                local ok, output = pcall(run.wait, run, TIMEOUT)
                gateway:stop()
                if not ok then
                    error(output, 2)
                end
                return output, gateway:error_log()
            end
        end,
    },
}

for _, place in ipairs(places) do
    place.run = function(code, vars)
        return place.begin(code, vars)()
    end
end

return places
