--- Chunks that replace files under a running client. Mostly they wait, for files are looked at once
--- a second: so all of a spec run at the same time, each in a process and on a port of its own.
---
---     local CASES = {
---         { "is read again", [[ … ]], vars = { … }, check = function(log, place) … end },
---     }
---     setup(function() runs = rotation.begin(CASES) end)
---     …
---             it(case[1], function() runs:finish(place, case) end)
---     …
---     teardown(function() runs:stop() end)
---
--- A chunk raises an error if something is not as it should be. It is given `folder`, an empty one;
--- it sets `options`, connect options; and it has
---
---     visit()                     whom the server saw, or its status, or the code of the error
---     visit_until("old", "new")   visits that give "old", till one gives "new" on a new connection
---     visit_for(2.2, "old")       visits that all give "old"
---     errors_are(1)               waits until so many changes could not be used
---     only_connections_are(1)     waits until server and client have so many
---     put("tls", "client-a")      writes a certificate and its key, one after the other
---     both("client-a")            certificate and key in one text
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local places = require("spec.support.places")
local prelude = require("spec.support.prelude")

local _M = {}

local CHUNK = prelude .. [[
    local call, fs = require("spec.support.call"), require("spec.support.fs")
    local gettime = require("socket").gettime
    local folder, options = "${folder}", nil
    -- Files are looked at once a second, and there are many who wait for it at the same time.
    pause_time, patience = 0.05, 15

    local pem = {
        ["client-a"] = { crt = ${pem.client-a.crt}, key = ${pem.client-a.key} },
        ["client-b"] = { crt = ${pem.client-b.crt}, key = ${pem.client-b.key} },
        ["client-p384"] = { crt = ${pem.client-p384.crt}, key = ${pem.client-p384.key} },
        ["client-rsa"] = { crt = ${pem.client-rsa.crt}, key = ${pem.client-rsa.key} },
    }

    local function both(name)
        return pem[name].crt .. pem[name].key
    end

    local function put(file, name, write)
        write = write or fs.write
        write(folder .. "/" .. file .. ".crt", pem[name].crt)
        write(folder .. "/" .. file .. ".key", pem[name].key)
    end

    -- Connections are kept, so that a visit that is seen as somebody else did not reuse one.
    local function visit()
        local all = { scheme = "https", host = "localhost", port = ${up}, keep = true,
                      ssl_trusted_certificate = ${pem.ca.crt}, request = { path = "/echo" } }
        for name, value in pairs(options) do
            all[name] = value
        end
        local outcome = call.make(all)
        local subject = (outcome.body or ""):match("\nsubject: CN=([^,\n]*)")
        return subject or outcome.status or outcome.details.code, outcome
    end

    local function visit_until(old, new)
        local done = wait_until(function()
            local seen, outcome = visit()
            if seen == new then
                assert((outcome.reused or 0) == 0, "an old connection was reused")
                return true
            end
            assert(seen == old, tostring(seen) .. ": " .. tostring(outcome.err))
        end)
        assert(done, "never " .. new)
    end

    local function visit_for(seconds, old)
        local till = gettime() + seconds
        while gettime() < till do
            local seen, outcome = visit()
            assert(seen == old, tostring(seen) .. ": " .. tostring(outcome.err))
            pause()
        end
    end

    local function count_errors()
        local log = fs.read(ngx and ngx.config.prefix() .. "error.log" or "/proc/self/fd/2")
        return select(2, log:gsub("changed and cannot be used; the previous one stays in use", ""))
    end

    local function errors_are(count)
        local done = wait_until(function()
            visit()
            return count_errors() >= count
        end)
        assert(done, "never " .. count .. " errors")
        assert(count_errors() == count, count_errors() .. " errors")
    end

    -- Those that it has not closed: established, or in CLOSE_WAIT.
    local function connections_at_server()
        local count = 0
        for line in io.lines("/proc/net/tcp") do
            local port, state = line:match("^ *%d+: %x+:(%x+) %x+:%x+ (%x+) ")
            if port and tonumber(port, 16) == ${up} and (state == "01" or state == "08") then
                count = count + 1
            end
        end
        return count
    end

    local function only_connections_are(count)
        local done = wait_until(function()
            return connections_at_server() == count and stats().connections_open == count
        end)
        assert(done, connections_at_server() .. " at the server, " .. stats().connections_open
               .. " here")
    end
]]

---@class RotationCase
---@field [1] string what it shows
---@field [2] string chunk
---@field vars table<string, string|number>?
---@field check fun(log: string, place: Place)?

---@class RotationRuns
---@field server Upstream
---@field running table<Place, table<RotationCase, fun(): string, string>>
local Runs = {}
Runs.__index = Runs


-- Ports are named by their numbers.
local function serve(count, opts)
    local listeners = {}
    for i = 1, count do
        listeners[i] = "listen 127.0.0.1:${port." .. i .. "} ssl " .. (opts.listen or "") .. ";"
    end
    return nginx.upstream({ verify = opts.verify, listen = opts.listen,
                            server = table.concat(listeners, "\n") })
end


--- Starts every case in every place, and a server for them.
---@param cases RotationCase[]
---@param opts { verify: string?, listen: string? }? of the server; see nginx.upstream
---@return RotationRuns
function _M.begin(cases, opts)
    local self = setmetatable({ running = {} }, Runs)
    self.server = serve(#cases * #places, opts or {})
    local number = 0
    for _, place in ipairs(places) do
        self.running[place] = {}
        for _, case in ipairs(cases) do
            number = number + 1
            self.running[place][case] = self:start(place, case, tostring(number))
        end
    end
    return self
end


--- Starts one case.
---@param place Place
---@param case RotationCase
---@param port string name of one of the server's
---@return fun(): string, string finish
function Runs:start(place, case, port)
    local vars = { up = self.server.ports[port], folder = fs.temp_dir("rotation") }
    for name, value in pairs(case.vars or {}) do
        vars[name] = value
    end
    return place.begin(CHUNK .. case[2] .. [[ print("done") ]], vars)
end


--- Waits for the end of one case, in which nothing was wrong, and has it check the log.
---@param place Place
---@param case RotationCase
function Runs:finish(place, case)
    local finish = self.running[place][case]
    self.running[place][case] = nil
    local output, log = finish()
    assert(output == "done\n", output)
    if case.check then
        case.check(log, place)
    end
end


--- Runs a chunk while no other is running.
---@param place Place
---@param code string
function Runs:run(place, code)
    local case = { "runs alone", code }
    self.running[place][case] = self:start(place, case, "tls")
    self:finish(place, case)
end


--- Ends what nobody has waited for, and the server.
function Runs:stop()
    for _, running in pairs(self.running) do
        for _, finish in pairs(running) do
            pcall(finish)
        end
    end
    self.server:stop()
end


return _M
