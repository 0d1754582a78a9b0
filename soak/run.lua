--- `make soak`: see runner.lua.
---
---     --seconds=600      of load
---     --seed=N           calls and faults follow from it; the time unless given
---     --sabotage=KIND    puts a defect in, to see that it is found: see sabotage.lua
local runner = require("soak.runner")


local function options_of(arguments)
    local options = { seconds = "600", seed = tostring(os.time() % 1000000), sabotage = "" }
    for _, argument in ipairs(arguments) do
        local name, value = argument:match("^%-%-(%a+)=([%w-]*)$")
        if not options[name] then
            error("unknown option: " .. argument, 0)
        end
        -- Empty is what make gives for a variable that is not set.
        options[name] = value ~= "" and value or options[name]
    end
    return {
        seconds = assert(tonumber(options.seconds), "seconds is no number"),
        seed = assert(tonumber(options.seed), "seed is no number"),
        sabotage = options.sabotage ~= "" and options.sabotage or nil,
        say = function(text)
            io.write(os.date("%H:%M:%S "), text, "\n")
            io.flush()
        end,
    }
end


local function main()
    local result = runner.run(options_of(arg))
    io.write("\n", result.report, "\n")
    return #result.findings == 0
end


-- The processes that were started end with this one, also after an error.
local ok, outcome = xpcall(main, function(err)
    return type(err) == "string" and err or debug.traceback(err)
end)
if not ok then
    io.stderr:write("\nThe soak failed: ", tostring(outcome), "\n")
end
os.exit(ok and outcome and 0 or 1, true)
