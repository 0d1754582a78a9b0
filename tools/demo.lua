--- `make demo`: one mTLS request from an nginx plugin, and the same call from plain luajit.
---
---     client ──http──▶ gateway (nginx, access_by_lua) ──mTLS──▶ upstream (nginx)
---
--- Both servers are real and listen on free loopback ports; everything is stopped at the end.
local client = require("spec.support.client")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local upstream_server = require("spec.support.nginx.upstream")

-- What a plugin does. Only the `require` differs from a program for lua-resty-http.
local CALL = [[
    local http = require("resty.mtls.http")

    local function call(cert, key, trusted, port)
        local httpc = http.new()
        local ok, err = httpc:connect({
            scheme = "https", host = "localhost", port = port,
            ssl_verify = true, ssl_trusted_certificate = trusted,
            ssl_cert = cert, ssl_key = key,
        })
        if not ok then
            return nil, "failed to connect: " .. err
        end

        local res, request_err = httpc:request({ method = "GET", path = "/echo" })
        if not res then
            return nil, "failed to request: " .. request_err
        end
        local body, read_err = res:read_body()
        if not body then
            return nil, "failed to read: " .. read_err
        end
        httpc:set_keepalive()
        return body
    end
]]

local GATEWAY = [[
    init_by_lua_block {
        ]] .. CALL .. [[

        local function read(path)
            return assert(io.open(path)):read("*a")
        end
        local trusted = read("${cert.ca.crt}")
        local identities = {
            ["client-a"] = { read("${cert.client-a.crt}"), read("${cert.client-a.key}") },
            ["client-b"] = { read("${cert.client-b.crt}"), read("${cert.client-b.key}") },
        }

        function call_upstream(name)
            local identity = identities[name]
            return call(identity[1], identity[2], trusted, ${upstream})
        end
    }

    server {
        listen 127.0.0.1:${port.gateway};
        location / {
            access_by_lua_block {
                local body, err = call_upstream(ngx.var.arg_as)
                if not body then
                    ngx.status = 502
                    ngx.say(err)
                    return ngx.exit(502)
                end
                ngx.print(body)
                ngx.exit(200)
            }
        }
    }
]]

local PLAIN = CALL .. [[
    for _ = 1, 2 do
        io.write(assert(call(${pem.client-a.crt}, ${pem.client-a.key}, ${pem.ca.crt}, ${upstream})),
                 "\n")
    end
]]

local failures = 0


local function say(...)
    print(string.format(...))
end


local function heading(text)
    say("\n── %s", text)
end


-- Prints what the upstream wrote about one request, and checks it.
local function show(body, identity, is_reused)
    local seen = upstream_server.parse(body)
    local reused = tonumber(seen.connection_requests or 0) > 1
    say("   upstream saw   subject DN   %s", seen.subject or "nothing")
    say("                  verified     %s", seen.verify or "-")
    say("                  TLS version  %s", seen.protocol or "-")
    say("                  connection   %s: %s", seen.connection or "-",
        reused and "reused, request " .. seen.connection_requests .. " on it" or "new")

    local expected = "CN=" .. identity .. ",O=Example"
    if seen.subject ~= expected or seen.verify ~= "SUCCESS" or reused ~= is_reused then
        failures = failures + 1
        say("   WRONG: expected %s on a %s connection", expected, is_reused and "reused" or "new")
        say("%s", body)
    end
end


local function through_gateway(gateway, identity, is_reused)
    local response = gateway:get("/?as=" .. identity)
    say("\n   GET /?as=%s came back with %d, %d bytes in %.1f ms", identity, response.status,
        #response.body, response.seconds * 1000)
    show(response.body, identity, is_reused)
end


local function no_certificate(upstream)
    local response = assert(client.fetch({ port = upstream.port, path = "/echo",
                                           sni = "localhost" }))
    say("   without a client certificate it answers %d: %s", response.status,
        response.body:match("<center>(.-)</center>") or response.body)
    if response.status ~= 400 then
        failures = failures + 1
    end
end


local function from_luajit(upstream)
    local output = plain.run_lua(PLAIN, { vars = { upstream = upstream.port } })
    local first, second = output:match("^(.-\n)\n(.*)$")
    for number, body in ipairs({ first, second }) do
        say("\n   call %d came back with %d bytes", number, #body)
        show(body, "client-a", number == 2)
    end
end


local function main()
    heading("Upstream: nginx with ssl_verify_client on")
    local upstream = nginx.upstream()
    say("   https://localhost:%d", upstream.port)
    no_certificate(upstream)

    heading("Gateway: nginx whose access_by_lua calls the upstream with a client certificate")
    local gateway = nginx.start({ http = GATEWAY, vars = { upstream = upstream.port } })
    say("   http://localhost:%d", gateway.port)
    through_gateway(gateway, "client-a", false)
    through_gateway(gateway, "client-a", true)
    through_gateway(gateway, "client-b", false)
    through_gateway(gateway, "client-a", true)

    heading("The same call from plain luajit, twice")
    from_luajit(upstream)

    gateway:stop()
    upstream:stop()
end


-- The processes that were started end with this one, also after an error.
local ok, err = xpcall(main, debug.traceback)
if not ok then
    io.stderr:write("\nThe demo failed: ", err, "\n")
elseif failures > 0 then
    io.stderr:write("\nThe demo failed: ", failures, " answers were not as expected.\n")
else
    say("\nAll as expected. Both servers have been stopped.")
end
os.exit(ok and failures == 0 and 0 or 1, true)
