-- The library under valgrind's memcheck: no byte is read that is nobody's, none written, none lost.
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local pkcs12 = require("spec.support.certs.pkcs12")
local valgrind = require("spec.support.valgrind")

local server, http2


local CALLS = [[
    local cjson, fs = require("cjson"), require("spec.support.fs")
    local http = require("resty.mtls.http")
    local counts = { calls = 0, failed = 0 }

    local function options(more)
        local given = {
            scheme = "https", host = "localhost", port = ${port},
            ssl_trusted_certificate = "${ca}", ssl_cert_path = "${crt}", ssl_key_path = "${key}",
        }
        for name, value in pairs(more or {}) do
            given[name] = value ~= "none" and value or nil
        end
        return given
    end

    local function client(more)
        local httpc = http.new()
        httpc:set_timeout(20000)
        counts.calls = counts.calls + 1
        local ok, err, details = httpc:connect(options(more))
        if not ok then
            counts.failed = counts.failed + 1
            return nil, details.code, err
        end
        return httpc
    end

    local function get(httpc, path, more)
        local params = more or {}
        params.path = path or "/echo"
        local res = assert(httpc:request(params))
        return assert(res:read_body()), res
    end
]]


-- What has been done and nothing else: valgrind has nothing to say, and the chunk got to its end.
local function assert_clean(code, vars)
    vars.port, vars.port2, vars.plain = server.port, http2.port, server.ports.plain
    vars.ca = certs.path("ca.crt")
    vars.crt, vars.key = certs.path("client-a.crt"), certs.path("client-a.key")
    local result, report = valgrind.run(CALLS .. code, vars)
    assert.equals("", report)
    assert.equals(0, result.code, result.stdout .. result.stderr)
    print("valgrind: " .. result.stdout:match("[^\n]*\n$"):sub(1, -2) .. ", no errors, no leaks")
    return result.stdout
end


-- Options that are right, and such that each give an error of their own.
local function identities()
    local good, bad = {}, {}
    local function path(name) return certs.path(name) end
    for _, name in ipairs({ "client-p384", "client-rsa", "client-ed25519", "client-chained" }) do
        local crt = path(name .. ".crt")
        good[#good + 1] = { ssl_cert_path = crt, ssl_key_path = path(name .. ".key") }
        good[#good + 1] = { ssl_cert_path = "none", ssl_key_path = "none",
                            ssl_cert = certs.read(name .. ".crt"),
                            ssl_key = certs.read(name .. ".encrypted.key"),
                            ssl_key_password = certs.PASSPHRASE }
        good[#good + 1] = { ssl_cert_path = "none", ssl_key_path = "none",
                            ssl_pkcs12 = pkcs12.path(name), ssl_key_password = certs.PASSPHRASE }
    end
    good[#good + 1] = { ssl_cert_path = path("client-rsa.crt"),
                        ssl_key_path = path("client-rsa.pkcs1.key") }
    good[#good + 1] = { ssl_key_path = path("client-a.sec1.key") }
    good[#good + 1] = { ssl_max_version = "TLSv1.2" }

    local legacy = path("client-a.legacy.key")
    bad[#bad + 1] = { "key_mismatch", { ssl_key_path = path("client-b.key") } }
    bad[#bad + 1] = { "key_encrypted", { ssl_key_path = path("client-a.encrypted.key") } }
    bad[#bad + 1] = { "key_encrypted", { ssl_key_path = legacy } }
    bad[#bad + 1] = { "key_passphrase_wrong", { ssl_key_path = path("client-a.encrypted.key"),
                                                ssl_key_password = "wrong" } }
    bad[#bad + 1] = { "bad_key_pem", { ssl_key_path = path("client-a.crt") } }
    bad[#bad + 1] = { "bad_certificate_pem", { ssl_cert_path = path("client-a.key") } }
    bad[#bad + 1] = { "bad_key_pem", { ssl_key_path = "/nowhere" } }
    bad[#bad + 1] = { "bad_argument", { ssl_key_path = "none" } }
    bad[#bad + 1] = { "bad_pkcs12", { ssl_cert_path = "none", ssl_key_path = "none",
                                      ssl_pkcs12 = path("client-a.key") } }
    bad[#bad + 1] = { "server_certificate_untrusted",
                      { ssl_trusted_certificate = path("other-ca.crt") } }
    bad[#bad + 1] = { "server_name_mismatch", { ssl_server_name = "elsewhere.example" } }
    bad[#bad + 1] = { "connect_refused", { port = 1 } }
    bad[#bad + 1] = { "dns_failed", { host = "nowhere.invalid" } }
    local file = fs.temp_dir("identities") .. "/identities.json"
    fs.write(file, cjson.encode({ good = good, bad = bad }))
    return file
end


if not valgrind.is_here() then
    pending("under valgrind (there is none here: apt-get install valgrind)")
    return
end


setup(function()
    server = nginx.upstream()
    http2 = nginx.upstream({ listen = "http2" })
end)

teardown(function()
    -- Not waiting for responses of which nobody wants the rest.
    server.process:stop()
    http2.process:stop()
end)


describe("under valgrind", function()
    it("identities in every form, and errors of each kind", function()
        local output = assert_clean([[
            local cases = cjson.decode(fs.read("${cases}"))
            for _, case in ipairs(cases.good) do
                local httpc = assert(client(case))
                get(httpc)
                httpc:get_ssl_info()
                httpc:set_keepalive()
            end
            for _, case in ipairs(cases.bad) do
                local _, code, err = client(case[2])
                if code ~= case[1] then
                    print(case[1], code, err)
                end
            end
            -- What is not used any more goes; what is left goes when Lua ends.
            require("resty.mtls.native").pass_time(100)
            collectgarbage()
            print(counts.calls .. " identities, of which " .. counts.failed .. " fail")
        ]], { cases = identities() })
        assert.matches("^%d+ identities, of which 13 fail\n$", output)
    end)

    it("requests on kept connections, over HTTP/2, cut off, collected, and in flight at the end",
       function()
        assert_clean([[
            for _ = 1, 3 do
                local httpc = client()
                get(httpc)
                get(httpc, "/echo", { method = "POST", body = ("x"):rep(100000) })
                assert(httpc:set_keepalive())
            end
            -- A body in parts, one that is left, and connections that nobody closes.
            local httpc = client()
            local res = assert(httpc:request({ path = "/bytes?n=1000000" }))
            local reader = res.body_reader
            for _ = 1, 3 do
                reader(1000)
            end
            httpc:close()
            for _ = 1, 5 do
                client():request({ path = "/bytes?n=1000000" })
            end
            httpc, res, reader = nil, nil, nil
            collectgarbage()
            collectgarbage()

            for _, version in ipairs({ 2, "auto" }) do
                for _ = 1, 3 do
                    local shared = client({ port = ${port2}, http_version = version })
                    get(shared)
                    get(shared, "/echo", { method = "POST", body = ("x"):rep(100000) })
                    shared:set_keepalive()
                end
                local left = client({ port = ${port2}, http_version = version })
                assert(left:request({ path = "/bytes?n=1000000" }))
                left:close()
            end

            local plain = http.new()
            plain:request_uri("http://localhost:${plain}/echo", { query = { a = "b" } })
            plain:request_uri("http://localhost:1/")
            plain:request_uri("nonsense")
            local report = http.diagnose(options())
            assert(report.ok, report.code)
            http.stats({ destinations = true })

            -- All of these are read by the background thread while the process ends.
            kept = {}
            for i = 1, 5 do
                kept[i] = client({ port = i % 2 == 0 and ${port2} or nil,
                                   http_version = i % 2 == 0 and 2 or nil })
                assert(kept[i]:request({ path = "/bytes?n=10000000" }))
            end
            print(counts.calls .. " connections, " .. http.stats().requests_in_flight
                .. " requests in flight at the end")
        ]], {})
    end)

    it("Lua states that load the library and end, one after the other", function()
        assert_clean([[
            local ffi = require("ffi")
            ffi.cdef("void *luaL_newstate(void); void luaL_openlibs(void *);"
                .. "int luaL_loadstring(void *, const char *);"
                .. "int lua_pcall(void *, int, int, int);"
                .. "const char *lua_tolstring(void *, int, size_t *); void lua_close(void *);")
            local C = ffi.C
            for i = 1, 5 do
                local state = C.luaL_newstate()
                C.luaL_openlibs(state)
                local failed = C.luaL_loadstring(state, [=[
                    local http = require("resty.mtls.http")
                    local httpc = http.new()
                    assert(httpc:connect({
                        scheme = "https", host = "localhost", port = ${port},
                        ssl_trusted_certificate = "${ca}",
                        ssl_cert_path = "${crt}", ssl_key_path = "${key}",
                    }))
                    assert(httpc:request({ path = "/bytes?n=1000000" }))
                ]=])
                assert(failed == 0)
                if C.lua_pcall(state, 0, 0, 0) ~= 0 then
                    error(ffi.string(C.lua_tolstring(state, -1, nil)))
                end
                C.lua_close(state)
            end
            print("5 Lua states that have ended")
        ]], {})
    end)

    it("a byte that was freed, and one that is lost, are noticed", function()
        local PRELUDE = [[
            local ffi = require("ffi")
            ffi.cdef("void *malloc(size_t); void free(void *);")
        ]]
        local result, report = valgrind.run(PRELUDE .. [[
            local block = ffi.cast("char *", ffi.C.malloc(100))
            ffi.C.free(block)
            print(block[10])
        ]])
        assert.equals(valgrind.FOUND, result.code)
        assert.matches("Invalid read of size 1", report, 1, true)
        result, report = valgrind.run(PRELUDE .. [[
            for i = 1, 100 do
                ffi.C.malloc(1000 + i)
            end
            collectgarbage()
        ]])
        assert.equals(valgrind.FOUND, result.code)
        assert.matches("are definitely lost", report, 1, true)
    end)
end)
