--- The command line: `luajit bench/run.lua --rounds=5 --seconds=5 …`
local _M = {}

local USAGE = [[
luajit bench/run.lua [OPTION…], from the checkout:
  --peer=PATH        checkout of lua-resty-http to compare with
  --peer-deps=PATHS  checkouts of what it needs, with : between: lua-resty-openssl, lua-resty-string
  --rounds=N         measurements of each case and library (5)
  --seconds=N        of load in each (5)
  --large-seconds=N  the same for bodies of 64 MiB (10)
  --warm-up=N        seconds before each (0.5)
  --only=WORD        the cases with WORD in their names
  --results=FOLDER   where latest.json, latest.txt and latest.svg go (bench/results)
]]

local NUMBERS = { rounds = 5, seconds = 5, large_seconds = 10, warm_up = 0.5 }
local TEXTS = { peer = "", peer_deps = "", only = "", results = "bench/results" }


local function fail(message)
    io.stderr:write(message, "\n\n", USAGE)
    os.exit(2)
end


local function split(text)
    local parts = {}
    for part in text:gmatch("[^:]+") do
        parts[#parts + 1] = part
    end
    return parts
end


---@class Options: Settings
---@field peer string? path
---@field peer_deps string[]
---@field rounds integer
---@field only string
---@field results string

--- Reads the command line. A mistake in it ends the program.
---@param arguments string[]
---@return Options
function _M.parse(arguments)
    local options = {}
    for _, defaults in ipairs({ NUMBERS, TEXTS }) do
        for name, value in pairs(defaults) do
            options[name] = value
        end
    end
    for _, argument in ipairs(arguments) do
        local name, value = argument:match("^%-%-([%a-]+)=(.*)$")
        name = (name or ""):gsub("-", "_")
        if NUMBERS[name] then
            options[name] = tonumber(value) or fail("not a number: " .. argument)
        elseif TEXTS[name] then
            options[name] = value
        else
            fail("unknown option: " .. argument)
        end
    end
    for _, name in ipairs({ "rounds", "seconds", "large_seconds" }) do
        if options[name] < 1 or options[name] % 1 ~= 0 then
            fail(name .. " has to be a whole number")
        end
    end
    options.peer = options.peer ~= "" and options.peer or nil
    options.peer_deps = split(options.peer_deps)
    return options
end


return _M
