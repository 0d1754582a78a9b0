--- What is measured, and what it ought to come to. Both the harness and the gateway load this.

local MIB = 1024 * 1024

---@class Case
---@field name string
---@field title string for the table
---@field connections integer requests at a time
---@field connection "kept"|"new"|"resumed"
---@field bytes integer size of the response body
---@field upload integer? size of the request body
---@field in_parts boolean? the response body is read 64 KiB at a time
---@field server "ecdsa"|"rsa"
---@field http_version 2? of ours; the peer has HTTP/1.1 only
---@field is_large boolean? takes long, uses memory, and a digest more or less is lost in it
---@field probed boolean? what is looked at is another location of the same worker, meanwhile
---@field note string? for the table
---@field targets Target[]

---@class Target
---@field metric string a name in metrics.lua
---@field ratio number? ours divided by the peer's: at least or at most, as the metric has it
---@field value number? ours by itself: at most

local function at_least_or_most(ratios)
    local targets = {}
    for _, metric in ipairs({ "rate", "cpu", "main_cpu", "p99" }) do
        if ratios[metric] then
            targets[#targets + 1] = { metric = metric, ratio = ratios[metric] }
        end
    end
    if ratios.memory then
        targets[#targets + 1] = { metric = "memory", value = ratios.memory }
    end
    return targets
end


---@type Case[]
local cases = {
    {
        name = "keepalive-1", title = "1 KiB, kept connections", connections = 1,
        connection = "kept", bytes = 1024,
        targets = { rate = 1.0, cpu = 1.0, main_cpu = 0.65 },
    },
    {
        name = "keepalive-16", title = "1 KiB, kept connections", connections = 16,
        connection = "kept", bytes = 1024,
        targets = { rate = 1.4, cpu = 0.70, main_cpu = 0.42 },
    },
    {
        name = "keepalive-64", title = "1 KiB, kept connections", connections = 64,
        connection = "kept", bytes = 1024,
        targets = { rate = 1.4, cpu = 0.70, main_cpu = 0.42 },
    },
    {
        name = "http2-64", title = "1 KiB over HTTP/2", connections = 64,
        connection = "kept", bytes = 1024, http_version = 2,
        note = "on one connection; the peer has no HTTP/2 and keeps 64 of HTTP/1.1",
        targets = { rate = 1.6, cpu = 0.60, main_cpu = 0.35 },
    },
    {
        name = "new-ecdsa", title = "new handshake each, ECDSA P-256", connections = 16,
        connection = "new", bytes = 1024,
        targets = { rate = 1.0, cpu = 0.55, main_cpu = 0.10 },
    },
    {
        name = "new-rsa", title = "new handshake each, RSA 2048", connections = 16,
        connection = "new", bytes = 1024, server = "rsa",
        targets = { rate = 1.0, cpu = 0.62, main_cpu = 0.10 },
    },
    {
        name = "resumed", title = "resumed handshake each", connections = 16,
        connection = "resumed", bytes = 1024,
        note = "cosockets do not resume TLS 1.3: the peer is given the last session, in vain",
        targets = { rate = 1.5, cpu = 0.42, main_cpu = 0.10 },
    },
    {
        name = "download", title = "1 MiB download", connections = 4,
        connection = "kept", bytes = MIB,
        targets = { rate = 1.2, cpu = 0.70, main_cpu = 0.40 },
    },
    {
        name = "upload", title = "1 MiB upload", connections = 4,
        connection = "kept", bytes = 1024, upload = MIB,
        targets = { rate = 1.0, cpu = 0.50, main_cpu = 0.15 },
    },
    {
        name = "string", title = "64 MiB to a string", connections = 1,
        connection = "kept", bytes = 64 * MIB, is_large = true,
        targets = { rate = 4.0, cpu = 0.25, memory = 2.1 * 64 * MIB },
    },
    {
        name = "streamed", title = "64 MiB in reads of 64 KiB", connections = 1,
        connection = "kept", bytes = 64 * MIB, in_parts = true, is_large = true,
        targets = { rate = 1.1, cpu = 0.9, memory = 8 * MIB },
    },
    {
        name = "beside-handshakes", title = "another location, beside new handshakes",
        connections = 16, connection = "new", bytes = 1024, probed = true,
        note = "200 without any work, on the same worker",
        targets = { p99 = 0.8 },
    },
    {
        name = "beside-bodies", title = "another location, beside 64 MiB bodies",
        connections = 2, connection = "kept", bytes = 64 * MIB, is_large = true, probed = true,
        note = "200 without any work, on the same worker",
        targets = { p99 = 0.15 },
    },
}

local by_name = {}
for _, case in ipairs(cases) do
    case.server = case.server or "ecdsa"
    case.targets = at_least_or_most(case.targets)
    by_name[case.name] = case
end

return { list = cases, by_name = by_name }
