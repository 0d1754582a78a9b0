-- wrk's own report is for people; this adds a line for load.lua. It defines no other hook, so that
-- wrk sends and receives without running Lua.

-- luacheck: globals done
function done(summary, latency)
    local errors = summary.errors
    -- wrk counts in microseconds.
    io.write(string.format("figures requests=%d errors=%d p50=%.9f p99=%.9f worst=%.9f\n",
        summary.requests,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, latency.max / 1e6))
end
