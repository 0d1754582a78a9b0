--- What is done to the servers while calls go on.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local posix = require("spec.support.posix")
local servers_of = require("soak.servers")
local system = require("system")

local _M = {}

---@type table<string, fun(servers: Servers, random: Random)>
local faults = {}


faults["upstream killed"] = function(servers)
    servers.shaky:kill()
    servers.shaky:start_again()
end


faults["upstream away"] = function(servers, random)
    servers.shaky:kill()
    system.sleep(random:between(5, 20) / 10)
    servers.shaky:start_again()
end


faults["upstream reloaded"] = function(servers)
    servers.shaky:reload()
end


-- Silent as a machine that has no power: connections stay, and nothing comes.
faults["upstream frozen"] = function(servers, random)
    local group = -servers.shaky:pid()
    posix.kill(group, "STOP")
    system.sleep(random:between(5, 40) / 10)
    posix.kill(group, "CONT")
end


faults["upstream's worker killed"] = function(servers, random)
    posix.kill(random:pick(servers.shaky:worker_pids()), "KILL")
end


faults["gateway reloaded"] = function(servers)
    servers.reloaded:reload()
end


faults["certificate replaced"] = function(servers)
    servers.rotated = not servers.rotated
    fs.write(servers.rotating, servers_of.both(servers.rotated and "rotating-b" or "rotating-a"))
end


local names = {}
for name in pairs(faults) do
    names[#names + 1] = name
end
table.sort(names)


---@class Schedule
local Schedule = {}
Schedule.__index = Schedule


---@param servers Servers
---@param random Random
---@return Schedule
function _M.schedule(servers, random)
    -- Made now, as openssl would take its time later.
    certs.path("rotating-b.crt")
    local counts = {}
    for _, name in ipairs(names) do
        counts[name] = 0
    end
    return setmetatable({ servers = servers, random = random, counts = counts, left = {} },
                        Schedule)
end


--- The next one. Each has its turn before one comes again.
function Schedule:inject()
    if #self.left == 0 then
        self.left = { unpack(names) }
    end
    local name = table.remove(self.left, self.random:upto(#self.left))
    faults[name](self.servers, self.random)
    self.counts[name] = self.counts[name] + 1
end


--- Seconds until the next one.
function Schedule:pause()
    return self.random:between(3, 20) / 10
end


return _M
