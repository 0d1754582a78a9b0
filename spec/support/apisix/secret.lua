--- Stand-in for apisix.secret: references to secrets and to environment variables.
--
-- `stand_in` is for the specs: `values` by reference; `per_table`, with which it caches by a key of
-- the caller's, as APISIX up to 3.14 does, and otherwise by reference, as later ones do;
-- `expire()`, which forgets what is cached; `fetched`, the number of those that were not cached.

local strict = require("apisix.strict")

local stand_in = { values = {}, per_table = false, fetched = 0 }
local cache = {}


local function fetch(reference)
    stand_in.fetched = stand_in.fetched + 1
    local name = reference:match("^%$[eE][nN][vV]://([^/]+)$")
    if name then
        return os.getenv(name)
    end
    return stand_in.values[reference]
end


local function cached(key, make, ...)
    if cache[key] == nil then
        -- A failure is remembered as well.
        cache[key] = make(...) or false
    end
    return cache[key] or nil
end


local function copy(refs, use_cache)
    local resolved = {}
    for name, value in pairs(refs) do
        if type(value) == "table" then
            resolved[name] = copy(value, use_cache)
        elseif type(value) == "string" and value:find("^%$%a+://") then
            resolved[name] = (use_cache and cached(value, fetch, value) or fetch(value)) or value
        else
            resolved[name] = value
        end
    end
    return resolved
end


local function fetch_secrets(refs, use_cache, key, version)
    if not stand_in.per_table then
        return copy(refs, use_cache)
    end
    assert(not use_cache or key ~= nil and version ~= nil, "the cache needs key and version")
    return use_cache and cached(key, copy, refs) or copy(refs)
end


function stand_in.expire()
    cache = {}
end


return strict("apisix.secret", { stand_in = stand_in, fetch_secrets = fetch_secrets })
