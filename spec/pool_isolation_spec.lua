local call = require("spec.support.call")
local certs = require("spec.support.certs")
local cjson = require("cjson")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local upstream = require("spec.support.nginx.upstream")

-- This process has given its one warning of ssl_verify = false with this.
require("resty.mtls.native").warn_unverified()


-- Options that decide who the caller is and whom it trusts. No two of them may share a connection.
local function profiles()
    local function text(name)
        return { ssl_cert = certs.read(name .. ".crt"), ssl_key = certs.read(name .. ".key"),
                 expected = "CN=" .. name .. ",O=Example" }
    end

    local function path(name)
        return { ssl_cert_path = certs.path(name .. ".crt"),
                 ssl_key_path = certs.path(name .. ".key"),
                 expected = "CN=" .. name .. ",O=Example" }
    end

    local function other(profile, option, value)
        profile[option] = value
        return profile
    end

    return {
        text("client-a"),
        text("client-b"),
        path("client-p384"),
        text("client-chained"),
        { expected = "" },
        other(text("client-a"), "ssl_trusted_certificate",
              certs.read("ca.crt") .. certs.read("other-ca.crt")),
        -- The same key, and something else behind the leaf.
        other(text("client-a"), "ssl_cert",
              certs.read("client-a.crt") .. certs.read("intermediate.crt")),
        other(text("client-a"), "ssl_verify", false),
        other(text("client-a"), "ssl_server_name", "target.server"),
        { ssl_verify = false, expected = "" },
        { ssl_client_cert = certs.read("client-rsa.crt"),
          ssl_client_priv_key = certs.read("client-rsa.key"),
          expected = "CN=client-rsa,O=Example" },
    }
end


-- Connect options for a profile, or another table of options.
local function options_for(server, profile, more)
    local options = {
        scheme = "https", host = "localhost", port = server.port, keep = true,
        ssl_trusted_certificate = certs.path("ca.crt"), request = { path = "/echo" },
    }
    for _, source in ipairs({ profile, more or {} }) do
        for name, value in pairs(source) do
            options[name] = value
        end
    end
    return options
end


local gateway, server

local places = {
    { name = "plain luajit", make = call.make },
    { name = "nginx", make = function(options) return call.inside(gateway, options) end },
}


-- Visits the server, checks that it saw the right caller, and tells how.
local function visit(place, profile, more)
    local outcome = place.make(options_for(server, profile, more))
    assert.equals(200, outcome.status, outcome.err)
    local seen = upstream.parse(outcome.body)
    assert.equals(profile.expected, seen.subject)
    assert.equals(profile.ssl_server_name or "localhost", seen.server_name)
    seen.reused = outcome.reused
    return seen
end


-- Fresh servers, so that no earlier spec has left a connection to them.
before_each(function()
    gateway = nginx.gateway()
    server = nginx.upstream({ verify = "optional" })
end)

after_each(function()
    gateway:stop()
    server:stop()
end)


for _, place in ipairs(places) do
    describe("an idle connection in " .. place.name, function()
        it("is used again by its own caller", function()
            local profile = profiles()[1]
            local first = visit(place, profile)
            assert.equals(0, first.reused)
            for i = 1, 3 do
                local seen = visit(place, profile)
                assert.equals(i, seen.reused)
                assert.equals(first.connection, seen.connection)
                assert.equals(tostring(i + 1), seen.connection_requests)
            end
        end)

        -- With and without a pool name that all have in common.
        for _, pool in ipairs({ false, "everyone" }) do
            it("is used by nobody else" .. (pool and ", with a pool name" or ""), function()
                local connections, taken = {}, {}
                for i, profile in ipairs(profiles()) do
                    local seen = visit(place, profile, { pool = pool or nil })
                    assert.equals(0, seen.reused)
                    assert.is_nil(taken[seen.connection])
                    connections[i], taken[seen.connection] = seen.connection, true
                end
                -- All of them are idle now, and everyone finds their own.
                for i, profile in ipairs(profiles()) do
                    local seen = visit(place, profile, { pool = pool or nil })
                    assert.equals(1, seen.reused)
                    assert.equals(connections[i], seen.connection)
                end
            end)
        end

        it("is used under its pool name only", function()
            local profile = profiles()[1]
            local first = visit(place, profile, { pool = "one" })
            for _, pool in ipairs({ "two", "" }) do
                local seen = visit(place, profile, { pool = pool })
                assert.equals(0, seen.reused)
                assert.not_equals(first.connection, seen.connection)
            end
            assert.equals(0, visit(place, profile).reused)
            assert.equals(first.connection, visit(place, profile, { pool = "one" }).connection)
        end)

        it("that was not verified does not excuse from verification", function()
            local untrusting = { ssl_trusted_certificate = certs.path("other-ca.crt") }
            local unverified = { ssl_trusted_certificate = certs.path("other-ca.crt"),
                                 ssl_verify = false, expected = "" }
            for _, keep in ipairs({ true, false }) do
                visit(place, unverified, { keep = keep })
                local outcome = place.make(options_for(server, untrusting, { keep = keep }))
                assert.equals("server_certificate_untrusted", (outcome.details or {}).code)
            end
        end)
    end)


    describe("a TLS session in " .. place.name, function()
        it("is resumed by its own caller and by nobody else", function()
            local resumed = 0
            for round = 1, 3 do
                for _, profile in ipairs(profiles()) do
                    local seen = visit(place, profile, { keep = false })
                    assert.equals(0, seen.reused)
                    if round == 1 then
                        assert.equals(".", seen.session_reused)
                    elseif seen.session_reused == "r" then
                        resumed = resumed + 1
                    end
                end
            end
            assert.equals(2 * #profiles(), resumed)
        end)
    end)
end


describe("a connection made under one default", function()
    it("is not used under another", function()
        local output = plain.run_lua([[
            local call, http = require("spec.support.call"), require("resty.mtls.http")
            local function visit()
                local outcome = call.make({ scheme = "https", host = "localhost", port = ${up},
                                            keep = true, request = { path = "/echo" } })
                print(outcome.status or outcome.details.code, outcome.reused)
            end
            http.set_defaults({ ssl_trusted_certificate = ${pem.ca.crt} })
            visit()
            visit()
            http.set_defaults({ ssl_trusted_certificate = ${pem.other-ca.crt} })
            visit()
        ]], { vars = { up = server.port } })
        assert.equals("200\t0\n200\t1\nserver_certificate_untrusted\tnil\n", output)
    end)
end)


describe("concurrent light threads", function()
    -- Each of them visits with every profile in turn, beginning with another one.
    local chunk = [[
        local cjson, call = require("cjson"), require("spec.support.call")
        local options, wrong, reused, count = cjson.decode(${options}), {}, 0, 0

        local function visit(own)
            local outcome = call.make(own)
            local subject = (outcome.body or ""):match("\nsubject: ([^\n]*)")
            count = count + 1
            if (outcome.reused or 0) > 0 then
                reused = reused + 1
            end
            if subject ~= own.expected then
                wrong[#wrong + 1] = own.expected .. " was " .. tostring(subject or outcome.err)
            end
        end

        local threads = {}
        for i = 1, 40 do
            threads[i] = ngx.thread.spawn(function()
                for j = 1, #options do
                    visit(options[(i + j) % #options + 1])
                end
            end)
        end
        for i = 1, #threads do
            assert(ngx.thread.wait(threads[i]))
        end
        print(table.concat(wrong, "\n"))
        return count, reused > 0
    ]]

    for _, pool in ipairs({ false, "everyone" }) do
        it("with many identities are each seen as who they are"
            .. (pool and ", with a pool name" or ""), function()
            local options = {}
            for i, profile in ipairs(profiles()) do
                options[i] = options_for(server, profile, { pool = pool or nil, timeout = 20000 })
            end
            local output = gateway:run(chunk, {
                vars = { options = "[==[" .. cjson.encode(options) .. "]==]" }, timeout = 40,
            })
            assert.equals("\n" .. 40 * #options .. "\ttrue\n", output)
        end)
    end
end)
