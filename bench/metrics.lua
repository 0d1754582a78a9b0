--- The figures that a measurement gives.

---@class Metric
---@field name string
---@field title string with its unit
---@field better "higher"|"lower"
---@field scale number from what is measured to the unit of the title
---@field format string
---@field noise number? below that, in the unit of the title, a ratio would be one of noise

local MIB = 1024 * 1024

---@type Metric[]
local metrics = {
    { name = "rate", title = "requests per second", better = "higher", scale = 1,
      format = "%.1f" },
    { name = "p50", title = "median latency, ms", better = "lower", scale = 1e3,
      format = "%.2f" },
    { name = "p99", title = "p99 latency, ms", better = "lower", scale = 1e3, format = "%.2f" },
    { name = "worst", title = "worst latency, ms", better = "lower", scale = 1e3,
      format = "%.2f" },
    { name = "cpu", title = "CPU per request, µs", better = "lower", scale = 1e6,
      format = "%.1f" },
    { name = "main_cpu", title = "of that, nginx's thread, µs", better = "lower", scale = 1e6,
      format = "%.1f" },
    { name = "memory", title = "peak memory over idle, MiB", better = "lower", scale = 1 / MIB,
      format = "%.1f", noise = 1 },
    -- Of the load that goes on beside a probe. Not compared: it is there to be told.
    { name = "load", title = "requests per second meanwhile", better = "higher", scale = 1,
      format = "%.1f" },
}

local by_name = {}
for _, metric in ipairs(metrics) do
    by_name[metric.name] = metric
end

return { list = metrics, by_name = by_name }
