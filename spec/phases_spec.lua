local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")


describe("the program of the README", function()
    local PROGRAM = [[
        local core = { log = { error = print } }
        local cert, key = ${pem.client-a.crt}, ${pem.client-a.key}
        local http = require("resty.mtls.http")
        assert(http.set_defaults{ ssl_trusted_certificate = ${pem.ca.crt} })

        local httpc = http.new()
        local ok, err = httpc:connect{ scheme = "https", host = "localhost", port = ${port},
                                       ssl_verify = true, ssl_cert = cert, ssl_key = key }
        if not ok then core.log.error("failed to connect: ", err) return end
        local res, err = httpc:request{ path = "/echo", method = "GET" }
        local body = res:read_body()
        httpc:close()
        print(res.status, body:match("subject: ([^\n]*)"))
    ]]
    local EXPECTED = "200\tCN=client-a,O=Example\n"
    local server, gateway

    setup(function()
        server = nginx.upstream()
        gateway = nginx.gateway()
    end)

    teardown(function()
        gateway:stop()
        server:stop()
    end)

    -- Not ssl_client_hello: Debian's nginx lacks the patch with which Lua can yield there.
    for _, phase in ipairs({ "rewrite", "access", "content", "timer", "ssl_certificate" }) do
        it("works in nginx, phase " .. phase, function()
            assert.equals(EXPECTED, gateway:run(PROGRAM, { phase = phase,
                                                           vars = { port = server.port } }))
        end)
    end

    for _, phase in ipairs({ "init", "init_worker" }) do
        it("works in nginx, phase " .. phase, function()
            -- Chunks of these phases get no variables of their own.
            local program = PROGRAM:gsub("%${port}", server.port)
            assert.equals(EXPECTED, nginx.run_lua(program, { phase = phase }))
        end)
    end

    it("works in plain luajit", function()
        assert.equals(EXPECTED, plain.run_lua(PROGRAM, { vars = { port = server.port } }))
    end)

    for phase, context in pairs({
        set = "set_by_lua*", header_filter = "header_filter_by_lua*",
        body_filter = "body_filter_by_lua*", log = "log_by_lua*", balancer = "balancer_by_lua*",
    }) do
        it("says that nothing can wait in phase " .. phase, function()
            assert.equals("3\tAPI disabled in the context of " .. context .. "\tapi_disabled\n",
                          gateway:run([[
                local httpc = require("resty.mtls.http").new()
                local function show(...)
                    local _, err, details = ...
                    print(select("#", ...), err, details.code)
                end
                show(httpc:connect{ scheme = "http", host = "127.0.0.1", port = ${port} })
            ]], { phase = phase, vars = { port = server.port } }))
        end)
    end
end)
