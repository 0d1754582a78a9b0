local crl = require("spec.support.certs.crl")
local places = require("spec.support.places")
local rotation = require("spec.support.rotation")

-- For chunks, which begin with them.
local FILE = [[
    local UNTRUSTED, REVOKED = "server_certificate_untrusted", "server_certificate_revoked"
    local ca, other_ca = ${pem.ca.crt}, ${pem.other-ca.crt}
    local file = folder .. "/file.pem"
]]
local TRUST = FILE .. [[
    options = { ssl_trusted_certificate = file }
    fs.write(file, ca)
    visit_until(nil, 200)
]]
local REVOCATION = FILE .. [[
    local nobody, somebody = fs.read("${nobody}"), fs.read("${somebody}")
    options = { ssl_crl = file }
    fs.write(file, nobody)
    visit_until(nil, 200)
]]

local LISTS = { nobody = crl.path("ca"), somebody = crl.path("ca", { revoked = { "server" } }) }


local function is_logged(phrase)
    return function(log)
        assert.matches(phrase, log, 1, true)
    end
end


local CASES = {
    { "trust is read again from a file", TRUST .. [[
        assert(select(2, visit()).reused == 1)
        fs.write(file, other_ca)
        visit_until(200, UNTRUSTED)
        only_connections_are(0)
        fs.overwrite(file, other_ca .. ca)
        visit_until(UNTRUSTED, 200)
        only_connections_are(1)
    ]] },

    { "trust is read again from a folder", FILE .. [[
        options = { ssl_trusted_certificate = folder }
        fs.write(folder .. "/a.pem", ca)
        visit_until(nil, 200)
        fs.write(folder .. "/b.pem", other_ca)
        os.remove(folder .. "/a.pem")
        visit_until(200, UNTRUSTED)
        only_connections_are(0)
        fs.write(folder .. "/c.pem", ca)
        visit_until(UNTRUSTED, 200)
        fs.overwrite(folder .. "/c.pem", other_ca)
        visit_until(200, UNTRUSTED)
    ]] },

    { "trust is read again from what a list names", FILE .. [[
        options = { ssl_trusted_certificate = { other_ca, file } }
        fs.write(file, ca)
        visit_until(nil, 200)
        fs.write(file, other_ca)
        visit_until(200, UNTRUSTED)
        only_connections_are(0)
        fs.write(file, ca)
        visit_until(UNTRUSTED, 200)
    ]] },

    { "trust takes idle connections with it when it goes", TRUST .. [[
        only_connections_are(1)
        fs.write(file, other_ca)
        only_connections_are(0)
    ]] },

    { "trust stays while a file cannot be used, with one error for each change", TRUST .. [[
        fs.write(file, other_ca:sub(1, 300))
        errors_are(1)
        visit_for(2.2, 200)
        errors_are(1)
        os.remove(file)
        errors_are(2)
        fs.write(file, other_ca)
        visit_until(200, UNTRUSTED)
        errors_are(2)
    ]], check = is_logged("'ssl_trusted_certificate'") },

    { "a list of revoked certificates is read again", REVOCATION .. [[
        assert(select(2, visit()).reused == 1)
        fs.write(file, somebody)
        visit_until(200, REVOKED)
        only_connections_are(0)
        fs.write(file, nobody)
        visit_until(REVOKED, 200)
    ]], vars = LISTS },

    { "a list of revoked certificates stays while it cannot be used, with one error",
      REVOCATION .. [[
        fs.write(file, somebody:sub(1, -60))
        errors_are(1)
        visit_for(2.2, 200)
        errors_are(1)
        fs.write(file, somebody)
        visit_until(200, REVOKED)
        errors_are(1)
    ]], vars = LISTS, check = is_logged("'ssl_crl'") },
}


local runs

setup(function() runs = rotation.begin(CASES, { verify = "off" }) end)

teardown(function() runs:stop() end)


for _, place in ipairs(places) do
    describe("whom to trust, in " .. place.name .. ":", function()
        for _, case in ipairs(CASES) do
            it(case[1], function() runs:finish(place, case) end)
        end
    end)
end
