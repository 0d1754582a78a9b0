--- What was measured on, for those who read the figures later.
local fs = require("spec.support.fs")
local process = require("spec.support.process")
local system = require("system")

local _M = {}


local function first_line(argv, pattern)
    local ok, result = pcall(process.run, argv)
    return ok and (result.stdout .. result.stderr):match(pattern) or "?"
end


local function debian_version(package)
    return first_line({ "dpkg-query", "-W", "-f", "${Version}", package }, "^%S+")
end


local function system_name()
    return (fs.read("/etc/os-release") or ""):match('PRETTY_NAME="([^"]+)"') or "?"
end


local function cpu_model()
    local text = fs.read("/proc/cpuinfo") or ""
    local model = text:match("model name%s*:%s*([^\n]+)") or "?"
    local _, cores = text:gsub("processor%s*:", "")
    return string.format("%d × %s", cores, model)
end


-- Ticks of all cores: all, and those with nothing to do.
local function ticks()
    local all, idle, column = 0, 0, 0
    for number in (fs.read("/proc/stat") or ""):match("cpu ([^\n]*)"):gmatch("%d+") do
        column = column + 1
        all = all + number
        -- Idle, and waiting for disks.
        idle = idle + ((column == 4 or column == 5) and number or 0)
    end
    return all, idle
end


--- How busy the machine is with other things. Takes a second.
---@return number share of all cores
function _M.busy()
    local all_before, idle_before = ticks()
    system.sleep(1)
    local all, idle = ticks()
    return 1 - (idle - idle_before) / (all - all_before)
end


---@return { name: string, value: string }[]
function _M.describe()
    local kernel = (fs.read("/proc/sys/kernel/osrelease") or "?"):match("%S+")
    return {
        { name = "CPU", value = cpu_model() },
        { name = "system", value = system_name() .. ", Linux " .. kernel },
        { name = "nginx", value = first_line({ "nginx", "-v" }, "nginx/(%S+)")
            .. ", ngx_lua " .. debian_version("libnginx-mod-http-lua") },
        { name = "OpenSSL", value = first_line({ "openssl", "version" }, "OpenSSL (%S+)") },
        { name = "LuaJIT", value = debian_version("libluajit2-5.1-2") },
        { name = "wrk", value = debian_version("wrk") },
        { name = "busy before", value = string.format("%.0f %% of all cores", _M.busy() * 100) },
    }
end


return _M
