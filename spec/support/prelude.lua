--- What chunks that make requests begin with. They need `vars = { up = upstream.port }`.
---
---     get("/echo")            body, or nil, err
---     identified{ port = … }  these options, with a client certificate and the CA to trust
---     wait_until(condition)   whether the condition came true, soon enough
---     stats()                 the counters of the process
return [[
    local http = require("resty.mtls.http")
    local stats = http.stats

    local function identified(options)
        options = options or {}
        options.ssl_trusted_certificate = ${pem.ca.crt}
        options.ssl_cert = ${pem.client-a.crt}
        options.ssl_key = ${pem.client-a.key}
        return options
    end

    local function get(path, options)
        local uri = "https://localhost:${up}" .. path
        local res, err = http.new():request_uri(uri, identified(options))
        if not res then
            return nil, err
        end
        return res.body
    end

    -- Seconds.
    local pause_time, patience = 0.005, 5

    local function pause()
        if ngx and ngx.get_phase() ~= "init" then
            ngx.sleep(pause_time)
        else
            os.execute("sleep " .. pause_time)
        end
    end

    local function wait_until(condition)
        for _ = 1, patience / pause_time do
            if condition() then
                return true
            end
            pause()
        end
        return false
    end
]]
