--- The counters of `http.stats` as metrics of nginx-lua-prometheus, which APISIX has as well.
--
--     local exporter = require("resty.mtls.prometheus").register(prometheus)
--
-- Each worker counts for itself. What has been added since the last time goes into the counters,
-- which the workers share; gauges have a label for the worker. docs/operations.md has the list.

local bad_argument = require("resty.mtls.errors").bad_argument
local http = require("resty.mtls.http")

local ipairs = ipairs
local pairs = pairs
local setmetatable = setmetatable
local tostring = tostring
local type = type


local _M = {}

local mt = { __index = _M }


-- Seconds between two times that a worker passes on what it has counted.
local DEFAULT_INTERVAL = 5

local PREFIX = "mtls_client_"

-- nginx-lua-prometheus takes each metric once, and plugins may be loaded anew.
-- Its object -> the exporter
local exporters = setmetatable({}, { __mode = "k" })

-- {counter of stats, metric, help}
local counters = {
    { "requests", "requests_total", "Requests begun" },
    { "retries", "request_retries_total", "Requests sent again on another connection" },
    { "connections_opened", "connections_opened_total", "Connections opened" },
    { "connections_reused", "connections_reused_total", "Times that a connection was reused" },
    { "bytes_sent", "sent_bytes_total", "Bytes of HTTP sent, before encryption" },
    { "bytes_received", "received_bytes_total", "Bytes of HTTP received, after decryption" },
}

-- {kind, counter of stats}
local handshakes = {
    { "full", "handshakes_full" },
    { "resumed", "handshakes_resumed" },
}

-- {table of stats by code, metric, help}
local counters_by_code = {
    { "failures_by_code", "failures_total", "Calls that failed, by the code of the error" },
    { "handshakes_failed_by_code", "handshake_failures_total",
      "TLS handshakes that failed, by the code of the error" },
}

local gauges = {
    { "connections_open", "connections_open", "Connections open now, idle ones included" },
    { "connections_idle", "connections_idle", "Connections idle now" },
    { "requests_in_flight", "requests_in_flight",
      "Requests whose response has not come completely" },
}

-- Of the process and of no destination, as keys are.
local process_gauges = {
    { "keys_held", "keys_held", "Private keys in memory that new connections would use" },
}


---@class resty.mtls.prometheus.options
---@field destinations? boolean a label `destination` on each metric; false by default
---@field interval? number seconds between two times that a worker passes on what it has counted; 5
---by default, 0 to leave that to calls of `collect`
---@field prefix? string of the metrics' names, "mtls_client_" by default


local function worker_name()
    local id = ngx.worker.id()
    -- The privileged agent and helpers have none.
    return id and tostring(id) or "other"
end


-- Registers one metric. nginx-lua-prometheus logs what is wrong with one, and gives nil.
local function add(self, kind, suffix, help, label, is_of_process)
    local labels = {}
    if self.has_destinations and not is_of_process then
        labels[1] = "destination"
    end
    labels[#labels + 1] = label
    local name = self.prefix .. suffix
    local metric = self.prometheus[kind](self.prometheus, name, help, labels[1] and labels or nil)
    if not metric then
        return nil, "cannot register the metric " .. name .. ": see the error log"
    end
    self.metrics[suffix] = metric
    return true
end


local function add_all(self)
    for _, counter in ipairs(counters) do
        local ok, err = add(self, "counter", counter[2], counter[3])
        if not ok then
            return nil, err
        end
    end
    for _, counter in ipairs(counters_by_code) do
        local ok, err = add(self, "counter", counter[2], counter[3], "code")
        if not ok then
            return nil, err
        end
    end
    for _, gauge in ipairs(gauges) do
        local ok, err = add(self, "gauge", gauge[2], gauge[3], "worker")
        if not ok then
            return nil, err
        end
    end
    for _, gauge in ipairs(process_gauges) do
        local ok, err = add(self, "gauge", gauge[2], gauge[3], "worker", true)
        if not ok then
            return nil, err
        end
    end
    return add(self, "counter", "handshakes_total", "TLS handshakes that were completed", "kind")
end


-- The label values of a metric, as many as it has names; nil for none.
local function label_values(self, destination, value)
    if not self.has_destinations then
        return value and { value }
    end
    return { destination, value }
end


-- Adds what a counter has grown by since the last time.
local function grow(self, suffix, now, destination, label)
    local key = suffix .. "\0" .. destination .. "\0" .. (label or "")
    local before = self.passed_on[key] or 0
    if now < before then
        -- Another process, or another engine in it: it began at 0.
        before = 0
    end
    if now > before then
        self.metrics[suffix]:inc(now - before, label_values(self, destination, label))
    end
    self.passed_on[key] = now
end


local function collect_one(self, stats, destination)
    for _, counter in ipairs(counters) do
        grow(self, counter[2], stats[counter[1]], destination)
    end
    for _, kind in ipairs(handshakes) do
        grow(self, "handshakes_total", stats[kind[2]], destination, kind[1])
    end
    for _, counter in ipairs(counters_by_code) do
        for code, count in pairs(stats[counter[1]]) do
            grow(self, counter[2], count, destination, code)
        end
    end
    -- The worker that takes the place of one that is about to exit has its number.
    if ngx.worker.exiting() then
        return
    end
    local worker = worker_name()
    for _, gauge in ipairs(gauges) do
        self.metrics[gauge[2]]:set(stats[gauge[1]], label_values(self, destination, worker))
    end
end


--- Passes on what this worker has counted. Other workers do so by themselves.
---@return true? ok
---@return string? err
function _M:collect()
    local stats, err = http.stats({ destinations = self.has_destinations })
    if not stats then
        return nil, err
    end
    if not ngx.worker.exiting() then
        for _, gauge in ipairs(process_gauges) do
            self.metrics[gauge[2]]:set(stats[gauge[1]], { worker_name() })
        end
    end
    if not self.has_destinations then
        collect_one(self, stats, "")
        return true
    end
    for destination, its in pairs(stats.destinations) do
        collect_one(self, its, destination)
    end
    return true
end


local function start_timer(self, interval)
    local function run()
        -- Also when the worker exits: what is not passed on by then is lost.
        local ok, err = self:collect()
        if not ok then
            ngx.log(ngx.ERR, "resty.mtls: cannot collect metrics: ", err)
        end
    end
    return ngx.timer.every(interval, run)
end


local function check(prometheus, options)
    if type(prometheus) ~= "table" or type(prometheus.counter) ~= "function"
        or type(prometheus.gauge) ~= "function"
    then
        return bad_argument("bad 'prometheus': expected what prometheus.init of "
            .. "nginx-lua-prometheus returned")
    end
    if type(options) ~= "table" then
        return bad_argument("bad options: expected a table, got " .. type(options))
    end
    local interval = options.interval
    if interval ~= nil and not (type(interval) == "number" and interval >= 0) then
        return bad_argument("bad 'interval': a number of seconds, at least 0")
    end
    if options.prefix ~= nil and type(options.prefix) ~= "string" then
        return bad_argument("bad 'prefix': expected a string, got " .. type(options.prefix))
    end
    return true
end


--- Registers the metrics, and has this worker pass on what it counts. To be called in each worker,
--- in init_worker_by_lua or later. Calling it again returns the same exporter.
---@param prometheus table what `prometheus.init` of nginx-lua-prometheus returned
---@param options? resty.mtls.prometheus.options
---@return table? exporter with a method `collect`
---@return string? err
---@return resty.mtls.details? details
function _M.register(prometheus, options)
    options = options == nil and {} or options
    local ok, err, details = check(prometheus, options)
    if not ok then
        return nil, err, details
    end
    if exporters[prometheus] then
        return exporters[prometheus]
    end
    local self = setmetatable({
        prometheus = prometheus,
        prefix = options.prefix or PREFIX,
        has_destinations = options.destinations == true,
        metrics = {},
        passed_on = {},
    }, mt)
    ok, err = add_all(self)
    if not ok then
        return nil, err
    end
    local interval = options.interval or DEFAULT_INTERVAL
    if interval > 0 then
        ok, err = start_timer(self, interval)
        if not ok then
            return nil, "cannot start the timer of the metrics: " .. tostring(err)
        end
    end
    exporters[prometheus] = self
    return self
end


return _M
