--- What must not stand in any log.
local _M = {}

-- nginx says so of a worker that the soak has killed.
local KILLED = "worker process %d+ exited on signal 9"


-- Of each log; a line that comes once for each call would hide all others.
local MOST = 10


local function add(problems, name, line)
    problems.of[name] = (problems.of[name] or 0) + 1
    if problems.of[name] > MOST then
        return
    end
    problems[#problems + 1] = "log of " .. name .. ": " .. line:sub(1, 300)
end


local function is_alarming(line, is_shaken)
    if is_shaken and line:find(KILLED) then
        return false
    end
    return line:find("[alert]", 1, true) or line:find("[crit]", 1, true)
        or line:find("[emerg]", 1, true) or line:lower():find("panic", 1, true)
end


--- Lines of the logs that are findings.
---@param servers Servers
---@return string[]
function _M.problems(servers)
    local problems = { of = {} }
    local texts = { squid = servers.squid:cache_log() }
    for name, server in pairs(servers:nginxes()) do
        texts[name] = server:error_log() .. server.process:output()
        for line in texts[name]:gmatch("[^\n]+") do
            if is_alarming(line, name == "shaky") then
                add(problems, name, line)
            end
        end
    end
    for name, text in pairs(texts) do
        for _, secret in ipairs(servers.secrets) do
            if text:find(secret, 1, true) then
                -- Not the secret itself: this is written into a log as well.
                add(problems, name, "has a secret of " .. #secret .. " bytes in it")
            end
        end
    end
    return problems
end


return _M
