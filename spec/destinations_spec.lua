-- The counters of http.stats by destination.
local nginx = require("spec.support.nginx")
local places = require("spec.support.places")

local TABLE = [[
    local http = require("resty.mtls.http")

    -- Requests, failures, and connections, by destination.
    local function show(only)
        local lines = {}
        for name, its in pairs(http.stats({ destinations = true }).destinations) do
            if not only or name:find(only, 1, true) then
                lines[#lines + 1] = table.concat({ name, its.requests, its.failures,
                    its.connections_open, its.connections_idle }, " ")
            end
        end
        table.sort(lines)
        print(table.concat(lines, "\n"))
    end
]]


for _, place in ipairs(places) do
    describe("destinations, in " .. place.name .. ",", function()
        it("have figures of their own, which sum up to those of the process", function()
            local upstream = nginx.upstream()
            local output = place.run(TABLE .. [[
                local identity = {
                    ssl_trusted_certificate = "${cert.ca.crt}",
                    ssl_cert_path = "${cert.client-a.crt}", ssl_key_path = "${cert.client-a.key}",
                }
                local function get(uri, options)
                    return http.new():request_uri(uri, options)
                end
                for _ = 1, 3 do
                    assert(get("http://localhost:${plain}/echo?secret"))
                end
                assert(not get("https://localhost:${tls}/echo"))
                assert(get("https://localhost:${tls}/echo", identity))
                assert(get("http://behind.test/echo", {
                    proxy_opts = { http_proxy = "http://user:secret@localhost:${plain}" },
                }))
                assert(not http.new():connect({ scheme = "http", host = "unix:/nowhere" }))
                assert(not http.new():connect({ scheme = "http", host = "no host", port = 1 }))
                local old = http.new()
                assert(old:connect("localhost", ${tls}))
                assert(not old:ssl_handshake())
                show()

                local all, sums = http.stats(), {}
                assert(all.destinations == nil)
                for _, its in pairs(http.stats({ destinations = true }).destinations) do
                    for name, value in pairs(its) do
                        if type(value) == "number" then
                            sums[name] = (sums[name] or 0) + value
                        end
                    end
                end
                assert(sums.requests == 5 and sums.failures == 4)
                for name, value in pairs(sums) do
                    assert(value == all[name], name)
                end
            ]], { plain = upstream.ports.plain, tls = upstream.port })
            local expected = {
                "http://behind.test:80 1 0 1 1",
                "http://localhost:" .. upstream.ports.plain .. " 3 0 1 1",
                "http://localhost:" .. upstream.port .. " 0 0 0 0",
                "http://unix:/nowhere 0 1 0 0",
                "https://localhost:" .. upstream.port .. " 1 2 1 1",
                "other 0 1 0 0",
            }
            table.sort(expected)
            assert.equals(table.concat(expected, "\n") .. "\n", output)
            upstream:stop()
        end)

        it("are bounded: those beyond a hundred are one", function()
            local output = place.run(TABLE .. [[
                for number = 1, 130 do
                    local path = "unix:/no/" .. number
                    assert(not http.new():connect({ scheme = "http", host = path }))
                end
                assert(not http.new():connect({ scheme = "http", host = "unix:/no/99" }))
                local count = 0
                for _ in pairs(http.stats({ destinations = true }).destinations) do
                    count = count + 1
                end
                print(count)
                show("other")
                show("unix:/no/100")
                show("unix:/no/101")
                show("http://unix:/no/99")
                print(http.stats().failures)
            ]])
            assert.equals("101\nother 0 30 0 0\nhttp://unix:/no/100 0 1 0 0\n\n"
                .. "http://unix:/no/99 0 2 0 0\n131\n", output)
        end)
    end)
end
