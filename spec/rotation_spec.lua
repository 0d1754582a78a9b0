local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local pkcs12 = require("spec.support.certs.pkcs12")
local places = require("spec.support.places")
local rotation = require("spec.support.rotation")

local server

-- Certificate and key in a file each, and in one file.
local PAIR = [[
    options = { ssl_cert_path = folder .. "/tls.crt", ssl_key_path = folder .. "/tls.key" }
    put("tls", "client-a")
]]
local ONE_FILE = [[
    local file = folder .. "/both.pem"
    options = { ssl_cert_path = file, ssl_key_path = file }
    fs.write(file, both("client-a"))
]]


local function vars_with(more)
    local vars = { up = server.port, plain = server.ports.plain,
                   folder = fs.temp_dir("rotation") }
    for name, value in pairs(more or {}) do
        vars[name] = value
    end
    return vars
end


-- Runs a chunk that raises an error if something is not as it should be. Gives the log.
local function run(place, code, vars)
    local output, log = place.run(rotation .. code .. [[ print("done") ]], vars_with(vars))
    assert.equals("done\n", output)
    return log
end


setup(function()
    server = nginx.upstream({ server = "location = /status { stub_status; }" })
end)

teardown(function() server:stop() end)


for _, place in ipairs(places) do
    describe("an identity in files, in " .. place.name, function()
        it("is read again when the files were replaced", function()
            run(place, PAIR .. [[
                visit_until(nil, "client-a")
                assert(select(2, visit()).reused == 1)
                put("tls", "client-b")
                visit_until("client-a", "client-b")
                only_connections_are(1)
                put("tls", "client-a")
                visit_until("client-b", "client-a")
                only_connections_are(1)
            ]])
        end)

        it("is read again when the files were written in place", function()
            run(place, PAIR .. [[
                visit_until(nil, "client-a")
                put("tls", "client-b", fs.overwrite)
                visit_until("client-a", "client-b")
                only_connections_are(1)
            ]])
        end)

        it("is read again when a link to their folder was replaced, as for a secret of Kubernetes",
           function()
            local log = run(place, [[
                local lfs = require("lfs")
                for _, version in ipairs({ "a", "b" }) do
                    assert(lfs.mkdir(folder .. "/..version_" .. version))
                    put("..version_" .. version .. "/tls", "client-" .. version)
                end
                fs.link("..version_a", folder .. "/..data")
                fs.link("..data/tls.crt", folder .. "/tls.crt")
                fs.link("..data/tls.key", folder .. "/tls.key")
                options = { ssl_cert_path = folder .. "/tls.crt",
                            ssl_key_path = folder .. "/tls.key" }

                visit_until(nil, "client-a")
                fs.link("..version_b", folder .. "/..data")
                os.remove(folder .. "/..version_a/tls.crt")
                os.remove(folder .. "/..version_a/tls.key")
                visit_until("client-a", "client-b")
                only_connections_are(1)
            ]])
            assert.not_matches("cannot be used", log, 1, true)
        end)

        it("is read again when it is PKCS#12, or the key is encrypted", function()
            local vars = { password = certs.PASSPHRASE }
            for _, name in ipairs({ "client-a", "client-b" }) do
                local which = name:sub(-1)
                vars["pkcs12_" .. which] = pkcs12.path(name)
                vars["encrypted_" .. which] = certs.path(name .. ".encrypted.key")
            end
            run(place, [[
                local file = folder .. "/identity.p12"
                options = { ssl_pkcs12 = file, ssl_key_password = "${password}" }
                fs.write(file, fs.read("${pkcs12_a}"))
                visit_until(nil, "client-a")
                fs.write(file, fs.read("${pkcs12_b}"))
                visit_until("client-a", "client-b")
                only_connections_are(1)

                file = folder .. "/both.pem"
                options = { ssl_cert_path = file, ssl_key_path = file,
                            ssl_key_password = "${password}" }
                fs.write(file, pem["client-a"].crt .. fs.read("${encrypted_a}"))
                visit_until(nil, "client-a")
                fs.write(file, pem["client-b"].crt .. fs.read("${encrypted_b}"))
                visit_until("client-a", "client-b")
            ]], vars)
        end)

        it("takes its idle connections with it when it goes", function()
            run(place, PAIR .. [[
                visit_until(nil, "client-a")
                only_connections_are(1)
                put("tls", "client-b")
                only_connections_are(0)
                visit_until(nil, "client-b")
            ]])
        end)

        it("keeps the connections that are in use until they are given back", function()
            run(place, ONE_FILE .. [[
                local function begin()
                    local httpc = http.new()
                    assert(httpc:connect({
                        scheme = "https", host = "localhost", port = ${up},
                        ssl_trusted_certificate = ${pem.ca.crt},
                        ssl_cert_path = file, ssl_key_path = file,
                    }))
                    return httpc
                end

                local function subject(httpc)
                    local res = assert(httpc:request({ path = "/echo" }))
                    return res:read_body():match("\nsubject: CN=([^,]*)")
                end

                local kept = begin()
                assert(subject(kept) == "client-a")
                fs.write(file, both("client-b"))
                visit_until("client-a", "client-b")
                assert(subject(kept) == "client-a")
                kept:set_keepalive()
                only_connections_are(1)
                assert(visit() == "client-b")
            ]])
        end)

        it("stays in use while a file is half-written, with one error for each change", function()
            local log = run(place, ONE_FILE .. [[
                local new = both("client-b")
                visit_until(nil, "client-a")
                fs.write(file, new:sub(1, -60))
                errors_are(1)
                visit_for(2.2, "client-a")
                errors_are(1)
                fs.write(file, new:sub(1, 100))
                errors_are(2)
                fs.write(file, new)
                visit_until("client-a", "client-b")
                errors_are(2)
                only_connections_are(1)
            ]])
            if place.name == "nginx" then
                assert.matches("%[error%][^\n]*resty%.mtls: [^\n]*'ssl_%w+_path'", log)
            end
            assert.matches("'ssl_cert_path'", log, 1, true)
            for _, name in ipairs({ "client-a.key", "client-b.key" }) do
                assert.is_nil(log:find(certs.read(name):sub(40, 80), 1, true), log)
            end
        end)

        it("stays in use while the new certificate waits for its key", function()
            local log = run(place, PAIR .. [[
                visit_until(nil, "client-a")
                fs.write(folder .. "/tls.crt", pem["client-b"].crt)
                errors_are(1)
                visit_for(2.2, "client-a")
                errors_are(1)
                fs.write(folder .. "/tls.key", pem["client-b"].key)
                visit_until("client-a", "client-b")
                errors_are(1)
                only_connections_are(1)
            ]])
            assert.matches("the previous one stays in use: key mismatch", log, 1, true)
        end)

        it("stays in use when a file was deleted", function()
            local log = run(place, PAIR .. [[
                visit_until(nil, "client-a")
                os.remove(folder .. "/tls.key")
                errors_are(1)
                visit_for(2.2, "client-a")
                errors_are(1)
                put("tls", "client-b")
                visit_until("client-a", "client-b")
                only_connections_are(1)
            ]])
            assert.matches("No such file", log, 1, true)
        end)

        it("goes on when its files were merely touched", function()
            local log = run(place, PAIR .. [[
                visit_until(nil, "client-a")
                os.execute("touch -d 2020-01-01 '" .. folder .. "/tls.crt'")
                os.execute("chmod 600 '" .. folder .. "/tls.key'")
                visit_for(1.5, "client-a")
            ]])
            assert.not_matches("cannot be used", log, 1, true)
        end)

        it("that cannot be used at first is used when it can", function()
            run(place, PAIR .. [[
                fs.write(folder .. "/tls.key", "")
                assert(visit() == "bad_key_pem")
                os.remove(folder .. "/tls.crt")
                assert(visit() == "bad_certificate_pem")
                put("tls", "client-b")
                assert(visit() == "client-b")
            ]])
        end)
    end)


    describe("an identity in a text, in " .. place.name, function()
        it("is another one when the text is another one", function()
            run(place, [[
                local function become(name)
                    options = { ssl_cert = pem[name].crt, ssl_key = pem[name].key }
                end
                become("client-a")
                visit_until(nil, "client-a")
                become("client-b")
                visit_until(nil, "client-b")
                become("client-a")
                local seen, outcome = visit()
                assert(seen == "client-a" and outcome.reused == 1)
                only_connections_are(2)
            ]])
        end)

        it("is not held to files that other calls name", function()
            run(place, PAIR .. [[
                local from_files = options
                local from_text = { ssl_cert = pem["client-a"].crt, ssl_key = pem["client-a"].key }
                visit_until(nil, "client-a")
                options = from_text
                visit_until(nil, "client-a")
                put("tls", "client-b")
                options = from_files
                visit_until("client-a", "client-b")
                options = from_text
                local seen, outcome = visit()
                assert(seen == "client-a" and outcome.reused == 1)
            ]])
        end)
    end)
end


describe("files that are replaced under load", function()
    it("fail no request, and leave no request to the old identity once the new one was seen",
       function()
        run(places[2], ONE_FILE .. [[
            local order = { ["client-a"] = 1, ["client-b"] = 2, ["client-p384"] = 3,
                            ["client-rsa"] = 4 }
            local newest, ended = 1, false

            -- Whoever is visiting while the files change may still be seen as the old one.
            local function visit_all_the_time()
                local visits = 0
                while not ended do
                    local newest_before = newest
                    local seen, outcome = visit()
                    local number = order[seen]
                    assert(number, tostring(seen) .. ": " .. tostring(outcome.err))
                    assert(number >= newest_before, seen .. " was seen after a newer one")
                    newest = math.max(newest, number)
                    visits = visits + 1
                end
                return visits
            end

            local threads = {}
            for i = 1, 20 do
                threads[i] = ngx.thread.spawn(visit_all_the_time)
            end
            for _, name in ipairs({ "client-b", "client-p384", "client-rsa" }) do
                fs.write(file, both(name))
                assert(wait_until(function() return newest == order[name] end), "never " .. name)
            end
            ended = true
            for i = 1, #threads do
                local ok, visits = ngx.thread.wait(threads[i])
                assert(ok and visits > 0)
            end
            assert(wait_until(function() return stats().connections_open <= 20 end))
            assert(visit() == "client-rsa")
        ]])
    end)
end)
