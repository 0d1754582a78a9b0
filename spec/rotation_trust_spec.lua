local crl = require("spec.support.certs.crl")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local places = require("spec.support.places")
local rotation = require("spec.support.rotation")

local UNTRUSTED, REVOKED = "server_certificate_untrusted", "server_certificate_revoked"

local server


-- Runs a chunk that raises an error if something is not as it should be. Gives the log.
local function run(place, code, vars)
    vars = vars or {}
    vars.up, vars.plain, vars.folder = server.port, server.ports.plain, fs.temp_dir("rotation")
    vars.untrusted, vars.revoked = UNTRUSTED, REVOKED
    local output, log = place.run(rotation .. code .. [[ print("done") ]], vars)
    assert.equals("done\n", output)
    return log
end


setup(function()
    server = nginx.upstream({ verify = "off", server = "location = /status { stub_status; }" })
end)

teardown(function() server:stop() end)


for _, place in ipairs(places) do
    describe("trust in CAs, in " .. place.name, function()
        it("is read again from a file", function()
            run(place, [[
                local file = folder .. "/trust.pem"
                options = { ssl_trusted_certificate = file }
                fs.write(file, ${pem.ca.crt})
                visit_until(nil, 200)
                assert(select(2, visit()).reused == 1)
                fs.write(file, ${pem.other-ca.crt})
                visit_until(200, "${untrusted}")
                only_connections_are(0)
                fs.overwrite(file, ${pem.other-ca.crt} .. ${pem.ca.crt})
                visit_until("${untrusted}", 200)
                only_connections_are(1)
            ]])
        end)

        it("is read again from a folder", function()
            run(place, [[
                options = { ssl_trusted_certificate = folder }
                fs.write(folder .. "/a.pem", ${pem.ca.crt})
                visit_until(nil, 200)
                fs.write(folder .. "/b.pem", ${pem.other-ca.crt})
                os.remove(folder .. "/a.pem")
                visit_until(200, "${untrusted}")
                only_connections_are(0)
                fs.write(folder .. "/c.pem", ${pem.ca.crt})
                visit_until("${untrusted}", 200)
                fs.overwrite(folder .. "/c.pem", ${pem.other-ca.crt})
                visit_until(200, "${untrusted}")
            ]])
        end)

        it("is read again from what a list names", function()
            run(place, [[
                local file = folder .. "/trust.pem"
                options = { ssl_trusted_certificate = { ${pem.other-ca.crt}, file } }
                fs.write(file, ${pem.ca.crt})
                visit_until(nil, 200)
                fs.write(file, ${pem.other-ca.crt})
                visit_until(200, "${untrusted}")
                only_connections_are(0)
                fs.write(file, ${pem.ca.crt})
                visit_until("${untrusted}", 200)
            ]])
        end)

        it("takes idle connections with it when it goes", function()
            run(place, [[
                local file = folder .. "/trust.pem"
                options = { ssl_trusted_certificate = file }
                fs.write(file, ${pem.ca.crt})
                visit_until(nil, 200)
                only_connections_are(1)
                fs.write(file, ${pem.other-ca.crt})
                only_connections_are(0)
            ]])
        end)

        it("stays while a file cannot be used, with one error for each change", function()
            local log = run(place, [[
                local file = folder .. "/trust.pem"
                options = { ssl_trusted_certificate = file }
                fs.write(file, ${pem.ca.crt})
                visit_until(nil, 200)
                fs.write(file, (${pem.other-ca.crt}):sub(1, 300))
                errors_are(1)
                visit_for(2.2, 200)
                errors_are(1)
                os.remove(file)
                errors_are(2)
                fs.write(file, ${pem.other-ca.crt})
                visit_until(200, "${untrusted}")
                errors_are(2)
            ]])
            assert.matches("'ssl_trusted_certificate'", log, 1, true)
        end)
    end)


    describe("a list of revoked certificates, in " .. place.name, function()
        local function vars()
            return { nobody = crl.path("ca"),
                     somebody = crl.path("ca", { revoked = { "server" } }) }
        end

        it("is read again", function()
            run(place, [[
                local file = folder .. "/crl.pem"
                options = { ssl_crl = file }
                fs.write(file, fs.read("${nobody}"))
                visit_until(nil, 200)
                assert(select(2, visit()).reused == 1)
                fs.write(file, fs.read("${somebody}"))
                visit_until(200, "${revoked}")
                only_connections_are(0)
                fs.write(file, fs.read("${nobody}"))
                visit_until("${revoked}", 200)
            ]], vars())
        end)

        it("stays while it cannot be used, with one error for each change", function()
            local log = run(place, [[
                local file = folder .. "/crl.pem"
                options = { ssl_crl = file }
                fs.write(file, fs.read("${nobody}"))
                visit_until(nil, 200)
                fs.write(file, fs.read("${somebody}"):sub(1, -60))
                errors_are(1)
                visit_for(2.2, 200)
                errors_are(1)
                fs.write(file, fs.read("${somebody}"))
                visit_until(200, "${revoked}")
                errors_are(1)
            ]], vars())
            assert.matches("'ssl_crl'", log, 1, true)
        end)
    end)
end
