--- A stand-in for nginx-lua-prometheus, for machines that do not have it: counters and gauges in a
--- shared dictionary, shown in its text format. Whatever else is called, or called with what the
--- real one would refuse, is an error.
---
--- Runs inside nginx. NGINX_LUA_PROMETHEUS names the folder of the real one.
local _M = {}


-- Unknown fields of an object are mistakes of its user.
local function strict(what, fields)
    return setmetatable(fields, {
        __index = function(_, name)
            error("the stand-in for nginx-lua-prometheus has no " .. what .. "." .. tostring(name),
                  2)
        end,
    })
end


local function full_name(metric, values)
    local names = metric.labels
    if #(values or {}) ~= #names then
        error(metric.name .. " has " .. #names .. " labels, got " .. #(values or {}), 3)
    end
    if #names == 0 then
        return metric.name
    end
    local parts = {}
    for i, name in ipairs(names) do
        parts[i] = name .. '="' .. tostring(values[i]):gsub('[\\"]', "\\%0") .. '"'
    end
    return metric.name .. "{" .. table.concat(parts, ",") .. "}"
end


local function register(self, kind, name, help, labels)
    assert(type(name) == "string" and name:find("^[%a_:][%w_:]*$"), "bad metric name")
    assert(type(help) == "string", "no help for " .. name)
    if self.metrics[name] then
        ngx.log(ngx.ERR, "Duplicate metric ", name)
        return nil
    end
    for _, label in ipairs(labels or {}) do
        assert(label ~= "le" and label:find("^[%a_][%w_]*$"), "bad label of " .. name)
    end
    local metric = { name = name, kind = kind, help = help, labels = labels or {} }
    self.metrics[name] = metric
    return metric
end


--- Takes the place of `prometheus.init`.
---@param dict_name string
---@param options {prefix: string, sync_interval: number}
---@return table
function _M.init(dict_name, options)
    local dict = assert(ngx.shared[dict_name], "no such dictionary")
    local prefix = options.prefix
    local self = { metrics = {} }

    local object = {}
    function object.counter(_, name, help, labels)
        local metric = register(self, "counter", name, help, labels)
        return metric and strict("counter", {
            inc = function(_, value, values)
                assert(type(value) == "number" and value >= 0, "a counter cannot decrease")
                assert(dict:incr(full_name(metric, values), value, 0))
            end,
        })
    end
    function object.gauge(_, name, help, labels)
        local metric = register(self, "gauge", name, help, labels)
        return metric and strict("gauge", {
            set = function(_, value, values)
                assert(type(value) == "number", "no number for " .. name)
                assert(dict:set(full_name(metric, values), value))
            end,
        })
    end
    function object.metric_data()
        local lines, seen = {}, {}
        local keys = dict:get_keys(0)
        table.sort(keys)
        for _, key in ipairs(keys) do
            local name = key:match("^[^{]+")
            local metric = self.metrics[name]
            if metric and not seen[name] then
                seen[name] = true
                lines[#lines + 1] = ("# HELP %s%s %s\n"):format(prefix, name, metric.help)
                lines[#lines + 1] = ("# TYPE %s%s %s\n"):format(prefix, name, metric.kind)
            end
            lines[#lines + 1] = ("%s%s %s\n"):format(prefix, key, dict:get(key))
        end
        return lines
    end
    return strict("prometheus", object)
end


return _M
