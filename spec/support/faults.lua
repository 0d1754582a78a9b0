--- What specs of faults have in common: transports, servers that are stopped, calls that are
--- counted.
---
---     local outcomes = faults.calls(place, transport, { { steps = { … }, options = { … } }, … })
---     …
---     after_each(faults.finish)
---     teardown(faults.tell)
local cjson = require("cjson")
local certs = require("spec.support.certs")
local fault_server = require("spec.support.fault_server")
local places = require("spec.support.places")

local _M = {}

---@class Transport
---@field name string
---@field tls "1.2"|"1.3"|nil

---@type Transport[]
_M.TRANSPORTS = { { name = "plain" }, { name = "TLS 1.2", tls = "1.2" },
                  { name = "TLS 1.3", tls = "1.3" } }

_M.GOOD = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"

local servers, tried = {}, 0


--- The steps of a connection on a transport: behind the handshake, if there is one.
---@param transport Transport
---@param steps string[]
---@return string[]
function _M.on(transport, steps)
    return transport.tls and { fault_server.handshake, unpack(steps) } or steps
end


--- Starts a server, which wants a client certificate where there is TLS.
---@param transport Transport
---@param ... string[] steps of each connection
---@return FaultServer
function _M.serve(transport, ...)
    local server = fault_server.start({ tls = transport.tls, client_ca = "ca" }, ...)
    servers[#servers + 1] = server
    return server
end


--- Options of a call to a server.
---@param transport Transport
---@param server FaultServer
---@param more table?
---@return table
function _M.options(transport, server, more)
    local options = { scheme = "http", host = "127.0.0.1", port = server.port, timeout = 20000 }
    if transport.tls then
        options.scheme, options.ssl_trusted_certificate = "https", certs.path("ca.crt")
        options.ssl_cert_path = certs.path("client-a.crt")
        options.ssl_key_path = certs.path("client-a.key")
    end
    for name, value in pairs(more or {}) do
        options[name] = value
    end
    return options
end


-- Runs a function of fault_calls in a place, and gives what it returns.
local function inside(place, name, ...)
    local output = place.run([[
        local cjson, calls = require("cjson"), require("spec.support.fault_calls")
        print(cjson.encode(calls[${name}](unpack(cjson.decode(${arguments})))))
    ]], { name = ("%q"):format(name), arguments = "[==[" .. cjson.encode({ ... }) .. "]==]" })
    local result = cjson.decode(output)
    assert(result.settled, "something is left in the process")
    return result
end


---@class FaultCase
---@field steps string[]? of the first connection, behind the handshake; it is given up then
---@field raw string[]? in its place: of the first connection, with no handshake
---@field options table? of fault_calls.make

-- A server that goes through each case's steps on one connection, and answers the next one.
local function server_of(transport, cases)
    local good = { fault_server.head, fault_server.send(_M.GOOD), fault_server.drain }
    local scripts = {}
    for _, case in ipairs(cases) do
        scripts[#scripts + 1] = case.raw or _M.on(transport, case.steps)
        scripts[#scripts + 1] = _M.on(transport, good)
    end
    return _M.serve(transport, unpack(scripts))
end


--- Makes a call for each case, and one after it to the same server, which answers that.
---@param place Place
---@param transport Transport
---@param cases FaultCase[]
---@return Outcome[]
function _M.calls(place, transport, cases)
    -- One server does for all, but where a connection is kept: it may be used again, or replaced.
    local list, alone = {}, {}
    for _, case in ipairs(cases) do
        alone[#alone + 1] = not (case.options and case.options.keep) and case or nil
    end
    local shared = alone[1] and server_of(transport, alone)
    for i, case in ipairs(cases) do
        local is_kept = case.options and case.options.keep
        list[i] = _M.options(transport, is_kept and server_of(transport, { case }) or shared,
                             case.options)
    end
    tried = tried + #list
    return inside(place, "each", list).outcomes
end


--- Makes the same call to a server until it goes well; see fault_calls.sweep.
---@param place Place
---@param options table
---@param dones integer?
---@return string[] what became of the calls, each thing once for as long as it went on
---@return table<string, integer> counts
function _M.sweep(place, options, dones)
    local order, counts = {}, {}
    for i, run in ipairs(inside(place, "sweep", options, dones).runs) do
        order[i] = run.what
        counts[run.what] = (counts[run.what] or 0) + run.count
        tried = tried + (run.what:find("^done") and 0 or run.count)
    end
    return order, counts
end


--- Makes the same call so many times.
---@param place Place
---@param options table
---@param count integer
---@param flooding FaultServer? which says so between the first two calls
---@return Outcome[]
function _M.repeated(place, options, count, flooding)
    tried = tried + count
    local log = flooding and flooding.process.log
    return inside(place, "repeated", options, count, log).outcomes
end


--- Stops all servers.
function _M.finish()
    for i, server in ipairs(servers) do
        server:stop()
        servers[i] = nil
    end
end


--- Tells how many faults there were so far.
function _M.tell()
    io.stdout:write("faults tried: ", tried, "\n")
    tried = 0
end


--- Each place and transport, with a name for them.
---@param only (fun(place: Place, transport: Transport): any)? those that this says yes to
---@return fun(): string?, Place, Transport
function _M.everywhere(only)
    return coroutine.wrap(function()
        for _, place in ipairs(places) do
            for _, transport in ipairs(_M.TRANSPORTS) do
                if not only or only(place, transport) then
                    coroutine.yield(transport.name .. " in " .. place.name, place, transport)
                end
            end
        end
    end)
end


return _M
