--- Runs inside of the gateways: what a worker has in it once nothing is in flight, no connection is
--- open, and the garbage is collected.
---
--- A worker cannot be asked by name, as whoever accepts a request answers it. So that all of them
--- are told through a shared dictionary, and answer there.
local cjson = require("cjson")
local ffi = require("ffi")
local http = require("resty.mtls.http")
local lfs = require("lfs")

local _M = {}

ffi.cdef [[
    typedef struct {
        size_t arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks,
               keepcost;
    } soak_mallinfo;
    soak_mallinfo mallinfo2(void);
    int malloc_trim(size_t pad);
    void *malloc(size_t size);
]]

-- Seconds: between two looks, and for coming to rest.
local INTERVAL, PATIENCE = 0.2, 20

local busy, answered = false, 0


local function descriptors()
    local count = 0
    for name in lfs.dir("/proc/self/fd") do
        count = count + (name:find("^%d+$") and 1 or 0)
    end
    return count
end


-- The fewest of some looks: who asks for the answers has a connection here meanwhile.
local function fewest_descriptors()
    local fewest = descriptors()
    for _ = 1, 10 do
        ngx.sleep(0.03)
        fewest = math.min(fewest, descriptors())
    end
    return fewest
end


local function resident()
    local file = assert(io.open("/proc/self/status"))
    local status = file:read("*a")
    file:close()
    return tonumber(status:match("RssAnon:%s*(%d+)")) * 1024
end


local function is_at_rest()
    collectgarbage()
    collectgarbage()
    local stats = http.stats({ destinations = true })
    -- Only this timer runs: the dispatcher and its wake socket have gone.
    return stats.connections_open == 0 and stats.connections_idle == 0
        and stats.requests_in_flight == 0 and stats.operations_in_flight == 0
        and ngx.timer.running_count() == 1, stats
end


local function sample(calls, come_to_rest)
    collectgarbage()
    collectgarbage()
    come_to_rest()
    local deadline = ngx.now() + PATIENCE
    local at_rest, stats = is_at_rest()
    while not at_rest and ngx.now() < deadline do
        ngx.sleep(INTERVAL)
        at_rest, stats = is_at_rest()
    end
    local files = fewest_descriptors()
    -- What glibc keeps of memory that was freed is not the library's doing.
    ffi.C.malloc_trim(0)
    local info = ffi.C.mallinfo2()
    return {
        pid = ngx.worker.pid(), calls = calls, at_rest = at_rest, stats = stats,
        resident = resident(), native = tonumber(info.uordblks) + tonumber(info.hblkhd),
        lua = collectgarbage("count") * 1024, descriptors = files,
        timers = ngx.timer.running_count(),
    }
end


local function look(premature, calls_so_far, come_to_rest)
    local wanted = ngx.shared.rest:get("wanted") or 0
    if premature or busy or wanted <= answered then
        return
    end
    busy, answered = true, wanted
    local ok, result = pcall(sample, calls_so_far(), come_to_rest)
    ngx.shared.rest:set(wanted .. " " .. ngx.worker.id(),
                        cjson.encode(ok and result or { failure = tostring(result) }))
    busy = false
end


--- For init_worker_by_lua.
---@param calls_so_far fun(): integer
---@param come_to_rest fun() does what is left to do
function _M.watch(calls_so_far, come_to_rest)
    assert(ngx.timer.every(INTERVAL, look, calls_so_far, come_to_rest))
end


--- Asks all workers.
function _M.ask()
    ngx.print((ngx.shared.rest:incr("wanted", 1, 0)))
end


--- What they have said so far, a line for each.
function _M.answers()
    for id = 0, ngx.worker.count() - 1 do
        local answer = ngx.shared.rest:get(ngx.var.arg_number .. " " .. id)
        if answer then
            ngx.print(answer, "\n")
        end
    end
end


return _M
