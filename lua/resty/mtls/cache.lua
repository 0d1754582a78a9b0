--- Ends the life of what caches hold and nobody uses.
--
-- Options may be private keys and passphrases. A cache that is only bounded would keep those of a
-- route that was taken away for as long as the worker runs. So each cache is two tables: what was
-- used since the last turn, and before. At a turn the older one is forgotten.
--
-- Turns come with Lua's garbage collector, which frees what was forgotten as well, and when
-- something new is cached. So they cost a request nothing, and need no timer, which would keep a
-- worker from exiting.

local abs = math.abs
local newproxy = newproxy
local time = os.time


local _M = {}


-- Seconds between two turns at the least. What is not used is forgotten with the second one. A
-- worker that does nothing, so that Lua neither collects nor caches, has none and keeps it.
local TURN = 5 * 60

-- Beyond so many entries a cache turns at once: option values of some callers never repeat.
local MAX_ENTRIES = 1000

local caches = {}
local turned = time()


---@class resty.mtls.cache
---@field young table what was used since the last turn
---@field old table and before
---@field count integer entries of `young`

--- A cache. Whoever finds something in `old` puts it into `young`, and calls `adds` for that.
---@return resty.mtls.cache
function _M.new()
    local cache = { young = {}, old = {}, count = 0 }
    caches[#caches + 1] = cache
    return cache
end


local function turn(cache)
    cache.young, cache.old, cache.count = {}, cache.young, 0
end


-- The clock may be set, forwards or back.
local function turn_if_due()
    local now = time()
    if abs(now - turned) < TURN then
        return
    end
    turned = now
    for i = 1, #caches do
        turn(caches[i])
    end
end


--- To be called before something is put into `young`.
---@param cache resty.mtls.cache
function _M.adds(cache)
    turn_if_due()
    cache.count = cache.count + 1
    if cache.count > MAX_ENTRIES then
        turn(cache)
        cache.count = 1
    end
end


--- For specs: as if so much time had passed.
---@param minutes integer
function _M.pass_time(minutes)
    turned = turned - minutes * 60
end


--- Forgets everything.
---@param cache resty.mtls.cache
function _M.clear(cache)
    cache.young, cache.old, cache.count = {}, {}, 0
end


-- The collector calls this once in each of its rounds: for an object that nobody has, which leaves
-- another one for the next round. When Lua ends, it is called once more when the native library can
-- no longer be: that must not be asked for the time.
local sentinel = newproxy(true)
getmetatable(sentinel).__gc = function()
    turn_if_due()
    newproxy(sentinel)
end
newproxy(sentinel)


return _M
