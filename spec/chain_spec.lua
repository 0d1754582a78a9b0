local call = require("spec.support.call")
local cjson = require("cjson")
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local identity = require("spec.support.identity")
local nginx = require("spec.support.nginx")
local pkcs12 = require("spec.support.certs.pkcs12")
local places = require("spec.support.places")

-- Names the key that signed it, as certificates of real CAs do.
local CA_EXTENSIONS = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
    .. "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"

certs.add({
    ["intermediate-deep"] = { issuer = "intermediate", extensions = CA_EXTENSIONS },
    ["client-deep"] = { usage = "client", issuer = "intermediate-deep" },
    -- Another CA that has an intermediate's name.
    ["intermediate-twin"] = { issuer = "ca", common_name = "Test Intermediate CA",
                              extensions = CA_EXTENSIONS },
})

local NOT_IN_ORDER = "resty.mtls: the certificates in 'OPTION' are not in order"
local STRAYS = "resty.mtls: 'OPTION' has certificates that are not part of the chain"
    .. "[^\n]*%(COUNT of them%)"

-- Each server trusts the root alone, so that what is in between has to be sent.
local server


-- One PEM text of these certificates.
local function text_of(names)
    local parts = {}
    for i, name in ipairs(names) do
        parts[i] = certs.read(name .. ".leaf.crt")
    end
    return table.concat(parts)
end


-- Makes three requests, each on a connection of its own, and gives what was logged.
local function log_of_visits(place, options, name)
    options = identity.options_for(server.port, options)
    local output, log = place.run([[
        local options = require("cjson").decode(${options})
        for _ = 1, 3 do
            local outcome = require("spec.support.call").make(options)
            print(outcome.err or outcome.body:match("\nverify: ([^\n]*)"),
                  (outcome.body or ""):match("\nsubject: CN=([^,]*)"))
        end
    ]], { options = "[==[" .. cjson.encode(options) .. "]==]" })
    assert.equals(("SUCCESS\t" .. name .. "\n"):rep(3), output)
    return log
end


-- Lines of a log that warn.
local function warnings(place, log)
    local lines = {}
    for line in log:gmatch("[^\n]*resty%.mtls: [^\n]*") do
        if place.name == "nginx" then
            assert.matches("[warn]", line, 1, true)
        end
        lines[#lines + 1] = line
    end
    return lines
end


local function assert_warns(place, log, option, is_in_order, strays)
    local lines = warnings(place, log)
    local expected = {}
    if not is_in_order then
        expected[1] = NOT_IN_ORDER:gsub("OPTION", option)
    end
    if strays > 0 then
        expected[#expected + 1] = STRAYS:gsub("OPTION", option):gsub("COUNT", tostring(strays))
    end
    assert.equals(#expected, #lines, log)
    for _, pattern in ipairs(expected) do
        assert.equals(1, select(2, log:gsub(pattern, "")), log)
    end
end


setup(function() server = nginx.upstream() end)

teardown(function() server:stop() end)


for _, place in ipairs(places) do
    describe("a chain in " .. place.name, function()
        local LEAF, FIRST, SECOND, ROOT = "client-deep", "intermediate-deep", "intermediate", "ca"

        for _, case in ipairs({
            { "as it should be", { LEAF, FIRST, SECOND }, true, 0 },
            { "with its root", { LEAF, FIRST, SECOND, ROOT }, true, 0 },
            { "with its intermediates in the wrong order", { LEAF, SECOND, FIRST }, false, 0 },
            { "with its leaf last", { SECOND, FIRST, LEAF }, false, 0 },
            { "with its root first and its leaf last", { ROOT, SECOND, FIRST, LEAF }, false, 0 },
            { "with its leaf in the middle", { FIRST, LEAF, SECOND }, false, 0 },
            { "with a stray behind it", { LEAF, FIRST, SECOND, "client-b" }, true, 1 },
            { "with a stray in front of it", { "client-b", LEAF, FIRST, SECOND }, true, 1 },
            { "with strays in between", { LEAF, "other-ca", FIRST, "client-chained", SECOND },
              true, 2 },
            { "with a certificate twice", { LEAF, FIRST, FIRST, SECOND }, true, 1 },
            { "with its leaf twice", { LEAF, FIRST, SECOND, LEAF }, true, 1 },
            { "in the wrong order, and with strays",
              { "client-chained", SECOND, "client-b", FIRST, "other-ca", LEAF }, false, 3 },
            { "with another CA of an intermediate's name",
              { LEAF, FIRST, "intermediate-twin", SECOND }, true, 1 },
        }) do
            local what, names, is_in_order, strays = unpack(case)
            it(what .. " is accepted", function()
                local log = log_of_visits(place, { ssl_cert = text_of(names),
                                                   ssl_key = certs.read(LEAF .. ".key") }, LEAF)
                assert_warns(place, log, "ssl_cert", is_in_order, strays)
            end)
        end

        it("is warned of by the option that gave it", function()
            local path = fs.temp_dir("chain") .. "/chain.pem"
            fs.write(path, text_of({ "client-b", SECOND, FIRST, LEAF }))
            local log = log_of_visits(place, { ssl_cert_path = path,
                                               ssl_key_path = certs.path(LEAF .. ".key") }, LEAF)
            assert_warns(place, log, "ssl_cert_path", false, 1)
            log = log_of_visits(place, {
                ssl_client_cert = fs.read(path), ssl_client_priv_key = certs.read(LEAF .. ".key"),
            }, LEAF)
            assert_warns(place, log, "ssl_client_cert", false, 1)
        end)

        it("in a PKCS#12 file has no order to warn of, but strays", function()
            local others = fs.temp_dir("chain") .. "/others.pem"
            for strays, names in pairs({ [0] = { SECOND, FIRST },
                                         [1] = { "client-b", SECOND, FIRST } }) do
                fs.write(others, text_of(names))
                local log = log_of_visits(place, {
                    ssl_pkcs12 = pkcs12.path(LEAF, {
                        certificates = LEAF .. ".leaf.crt", arguments = { "-certfile", others },
                    }),
                    ssl_key_password = certs.PASSPHRASE,
                }, LEAF)
                assert_warns(place, log, "ssl_pkcs12", true, strays)
            end
        end)

        it("of the key's certificate is taken, whichever stands first", function()
            local text = text_of({ "client-a", "client-b", "client-rsa", LEAF, FIRST, SECOND })
            for _, name in ipairs({ "client-a", "client-b", "client-rsa", LEAF }) do
                local log = log_of_visits(place, { ssl_cert = text,
                                                   ssl_key = certs.read(name .. ".key") }, name)
                assert.equals(1, select(2, log:gsub("are not part of the chain", "")), log)
            end
        end)
    end)
end


describe("a chain", function()
    local gateway

    setup(function() gateway = nginx.gateway() end)

    teardown(function() gateway:stop() end)

    it("without the key's certificate gives key_mismatch", function()
        for _, names in ipairs({ { "client-a" }, { "client-a", "client-rsa" },
                                 { "client-deep", "intermediate-deep", "intermediate", "ca" } }) do
            identity.assert_refused(gateway, server.port, {
                ssl_cert = text_of(names), ssl_key = certs.read("client-b.key"),
            }, "key_mismatch", "'ssl_cert'", "'ssl_key'")
        end
    end)

    it("that lacks a link is sent as far as it goes", function()
        -- The server cannot verify it, and says so; a certificate beside the gap is no part of it.
        for _, names in ipairs({ { "client-deep" }, { "client-deep", "intermediate" },
                                 { "client-deep", "intermediate-deep" } }) do
            local outcome = call.inside(gateway, identity.options_for(server.port, {
                ssl_cert = text_of(names), ssl_key = certs.read("client-deep.key"),
            }))
            assert.equals(400, outcome.status, outcome.err)
        end
    end)

    it("with a broken certificate gives bad_certificate_pem", function()
        local broken = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n"
        for _, text in ipairs({ broken .. certs.read("client-a.crt"),
                                certs.read("client-a.crt") .. broken }) do
            identity.assert_refused(gateway, server.port, {
                ssl_cert = text, ssl_key = certs.read("client-a.key"),
            }, "bad_certificate_pem", "'ssl_cert'")
        end
    end)
end)
