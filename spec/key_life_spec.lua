-- How long a key is in memory. Looked for in all memory of a process, not by asking it.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local key_parts = require("spec.support.key_parts")
local nginx = require("spec.support.nginx")
local secretive = require("spec.support.secretive")

local server


-- `call(options)` is one request and the client that made it, `held()` the keys that there are now.
local PRELUDE = [[
    local caches, http = require("resty.mtls.cache"), require("resty.mtls.http")
    local native = require("resty.mtls.native")

    local function call(options)
        options.scheme, options.host, options.port = "https", "localhost", ${port}
        options.ssl_trusted_certificate = "${ca}"
        local httpc = http.new()
        assert(httpc:connect(options))
        assert(httpc:request({ path = "/echo" }):read_body())
        return httpc
    end

    local function held()
        return http.stats().keys_held
    end

    local function pass_time(minutes)
        native.pass_time(minutes)
        caches.pass_time(minutes)
        -- What the first round finds to be nobody's is freed in the second.
        collectgarbage()
        collectgarbage()
        native.pass_time(1)
    end
]]


local function start(code, vars)
    vars.port, vars.ca = server.port, certs.path("ca.crt")
    return secretive.start(PRELUDE .. code, vars)
end


-- What was made of a key, and its text.
local function numbers_and_text(name)
    return key_parts.of(name), key_parts.text_of(name .. ".key")
end


setup(function() server = nginx.upstream() end)

teardown(function() server:stop() end)


describe("a key that was given as text", function()
    for _, name in ipairs({ "client-a", "client-rsa", "client-ed25519" }) do
        it("goes when nobody has used it for some minutes (" .. name .. ")", function()
            local its = start([[
                local key = secret("${key}")
                call({ ssl_cert_path = "${crt}", ssl_key = key }):close()
                forget(key)
                step("used", held())
                pass_time(3)
                step("soon", held())
                pass_time(5)
                step("later", held())
                pass_time(15)
                step("late", held())
            ]], { crt = certs.path(name .. ".crt"), key = certs.path(name .. ".key") })
            local numbers, text = numbers_and_text(name)
            for _, moment in ipairs({ "used", "soon" }) do
                assert.equals("1", its:at(moment))
                assert.is_true(select(2, its:find(numbers)) > 0, moment)
                assert.is_true(select(2, its:find(text)) > 0, moment)
                its:go_on(moment)
            end
            assert.equals("0", its:at("later"))
            assert.same({}, (its:find(numbers)))
            its:go_on("later")
            its:at("late")
            assert.same({}, (its:find(numbers)))
            assert.same({}, (its:find(text)))
            its:go_on("late")
            assert.equals(0, its.child:result().code)
        end)
    end

    it("is kept while it is used now and then", function()
        local its = start([[
            for i = 1, 20 do
                call({ ssl_cert_path = "${crt}", ssl_key_path = "${key}" }):close()
                pass_time(3)
                assert(held() == 1)
            end
            local stats = http.stats()
            step("done", stats.handshakes_full, stats.handshakes_resumed)
        ]], { crt = certs.path("client-a.crt"), key = certs.path("client-a.key") })
        -- The store of sessions would have gone with it.
        assert.same({ "1", "19" }, { its:at("done") })
        its:go_on("done")
    end)

    it("is kept while a connection is open, in the pool or in use", function()
        local its = start([[
            local function options()
                return { ssl_cert_path = "${crt}", ssl_key_path = "${key}" }
            end
            assert(call(options()):set_keepalive())
            pass_time(100)
            step("pooled", held())
            local httpc = call(options())
            local reused = httpc:get_reused_times()
            pass_time(100)
            step("in use", held(), reused)
            httpc:close()
            pass_time(100)
            step("closed", held())
            call(options()):close()
            step("again", held(), http.stats().connections_opened)
        ]], { crt = certs.path("client-a.crt"), key = certs.path("client-a.key") })
        local numbers = key_parts.of("client-a")
        for _, moment in ipairs({ "pooled", "in use", "closed", "again" }) do
            local keys, more = its:at(moment)
            local _, found = its:find(numbers)
            assert.equals(moment == "closed" and "0" or "1", keys, moment)
            assert.equals(moment ~= "closed", found > 0, moment)
            assert.equals(({ ["in use"] = "1", again = "2" })[moment], more)
            its:go_on(moment)
        end
    end)
end)


describe("a key that was replaced in its file", function()
    it("goes with the last connection under it, though its client is still there", function()
        local folder = fs.temp_dir("rotated")
        local crt, key = folder .. "/crt", folder .. "/key"
        local function put(name)
            fs.write(key, certs.read(name .. ".key"))
            fs.write(crt, certs.read(name .. ".crt"))
        end
        put("client-a")
        local its = start([[
            local function options()
                return { ssl_cert_path = "${crt}", ssl_key_path = "${key}" }
            end
            local old = call(options())
            step("old", old:get_ssl_info().identity.subject)
            local new, subject
            repeat
                ffi.C.usleep(20000)
                new = call(options())
                subject = new:get_ssl_info().identity.subject
                new:close()
            until not subject:find("client-a", 1, true)
            step("both", subject)
            old:close()
            step("new", old:get_ssl_info().identity.subject, held())
        ]], { crt = crt, key = key })
        local old, new = key_parts.of("client-a"), key_parts.of("client-b")
        local function found(pieces)
            return select(2, its:find(pieces)) > 0
        end
        assert.matches("client-a", its:at("old"), 1, true)
        assert.is_true(found(old))
        assert.is_false(found(new))
        put("client-b")
        its:go_on("old")
        assert.matches("client-b", its:at("both"), 1, true)
        assert.is_true(found(old))
        assert.is_true(found(new))
        its:go_on("both")
        -- What is known of the connection that has ended is known without its key.
        local subject, keys = its:at("new")
        assert.matches("client-a", subject, 1, true)
        assert.equals("1", keys)
        assert.same({}, (its:find(old)))
        assert.is_true(found(new))
        its:go_on("new")
    end)
end)


describe("inside nginx, a key", function()
    local gateway

    setup(function() gateway = nginx.gateway() end)

    teardown(function() gateway:stop() end)

    it("goes without another call, and comes back with one", function()
        local output = gateway:run([[
            local http, native = require("resty.mtls.http"), require("resty.mtls.native")
            local function call()
                local httpc = http.new()
                local res = assert(httpc:request_uri("https://localhost:${port}/echo", {
                    ssl_trusted_certificate = "${ca}", keepalive = false,
                    ssl_cert_path = "${crt}", ssl_key_path = "${key}",
                }))
                return res.status .. " " .. http.stats().keys_held
            end
            print(call())
            native.pass_time(5)
            print(http.stats().keys_held)
            print(call())
        ]], { vars = { port = server.port, ca = certs.path("ca.crt"),
                       crt = certs.path("client-a.crt"), key = certs.path("client-a.key") } })
        assert.equals("200 1\n0\n200 1\n", output)
    end)
end)
