--- What chunks begin with that replace files under a running client. They need
--- `vars = { up = upstream.port, plain = upstream.ports.plain, folder = fs.temp_dir("rotation") }`
--- and an `options`, a table of connect options, that they declare themselves.
---
---     visit()                     whom the server saw, or its status, or the code of the error
---     visit_until("old", "new")   visits that give "old", till one gives "new" on a new connection
---     visit_for(2.2, "old")       visits that all give "old"
---     errors_are(1)               waits until so many changes could not be used
---     only_connections_are(1)     waits until server and client have so many
---     put("tls", "client-a")      writes a certificate and its key, one after the other
---     both("client-a")            certificate and key in one text
local prelude = require("spec.support.prelude")

return prelude .. [[
    local call, fs = require("spec.support.call"), require("spec.support.fs")
    local gettime = require("socket").gettime
    local folder, options = "${folder}", nil

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

    local function only_connections_are(count)
        local seen
        local done = wait_until(function()
            -- The one that asks is a connection as well.
            local res = assert(http.new():request_uri("http://127.0.0.1:${plain}/status",
                                                      { keepalive = false }))
            seen = tonumber(res.body:match("Active connections: (%d+)")) - 1
            return seen == count and stats().connections_open == count
        end)
        assert(done, seen .. " at the server, " .. stats().connections_open .. " here")
    end
]]
