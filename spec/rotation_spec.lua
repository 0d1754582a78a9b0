local certs = require("spec.support.certs")
local pkcs12 = require("spec.support.certs.pkcs12")
local places = require("spec.support.places")
local rotation = require("spec.support.rotation")

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


local function assert_no_error(log)
    assert.not_matches("cannot be used", log, 1, true)
end


local function is_logged(phrase)
    return function(log)
        assert.matches(phrase, log, 1, true)
    end
end


local CASES = {
    { "is read again when its files were replaced", PAIR .. [[
        visit_until(nil, "client-a")
        assert(select(2, visit()).reused == 1)
        put("tls", "client-b")
        visit_until("client-a", "client-b")
        only_connections_are(1)
        put("tls", "client-a")
        visit_until("client-b", "client-a")
        only_connections_are(1)
    ]] },

    { "is read again when its files were written in place", PAIR .. [[
        visit_until(nil, "client-a")
        put("tls", "client-b", fs.overwrite)
        visit_until("client-a", "client-b")
        only_connections_are(1)
    ]] },

    { "is read again when a link to its folder was replaced, as for a secret of Kubernetes", [[
        local lfs = require("lfs")
        for _, version in ipairs({ "a", "b" }) do
            assert(lfs.mkdir(folder .. "/..version_" .. version))
            put("..version_" .. version .. "/tls", "client-" .. version)
        end
        fs.link("..version_a", folder .. "/..data")
        fs.link("..data/tls.crt", folder .. "/tls.crt")
        fs.link("..data/tls.key", folder .. "/tls.key")
        options = { ssl_cert_path = folder .. "/tls.crt", ssl_key_path = folder .. "/tls.key" }

        visit_until(nil, "client-a")
        fs.link("..version_b", folder .. "/..data")
        os.remove(folder .. "/..version_a/tls.crt")
        os.remove(folder .. "/..version_a/tls.key")
        visit_until("client-a", "client-b")
        only_connections_are(1)
    ]], check = assert_no_error },

    { "is read again when it is a PKCS#12 file", [[
        local file = folder .. "/identity.p12"
        options = { ssl_pkcs12 = file, ssl_key_password = "${password}" }
        fs.write(file, fs.read("${first}"))
        visit_until(nil, "client-a")
        fs.write(file, fs.read("${second}"))
        visit_until("client-a", "client-b")
        only_connections_are(1)
    ]], vars = { password = certs.PASSPHRASE, first = pkcs12.path("client-a"),
                 second = pkcs12.path("client-b") } },

    { "is read again when its key is encrypted", [[
        local file = folder .. "/both.pem"
        options = { ssl_cert_path = file, ssl_key_path = file, ssl_key_password = "${password}" }
        fs.write(file, pem["client-a"].crt .. fs.read("${first}"))
        visit_until(nil, "client-a")
        fs.write(file, pem["client-b"].crt .. fs.read("${second}"))
        visit_until("client-a", "client-b")
        only_connections_are(1)
    ]], vars = { password = certs.PASSPHRASE, first = certs.path("client-a.encrypted.key"),
                 second = certs.path("client-b.encrypted.key") } },

    { "takes its idle connections with it when it goes", PAIR .. [[
        visit_until(nil, "client-a")
        only_connections_are(1)
        put("tls", "client-b")
        only_connections_are(0)
        visit_until(nil, "client-b")
    ]] },

    { "keeps the connections that are in use until they are given back", ONE_FILE .. [[
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
    ]] },

    { "stays in use while a file is half-written, with one error for each change", ONE_FILE .. [[
        local new = both("client-b")
        visit_until(nil, "client-a")
        fs.write(file, new:sub(1, -60))
        errors_are(1)
        visit_for(2.2, "client-a")
        errors_are(1)
        -- Another error: the same one is not repeated so soon.
        fs.write(file, pem["client-b"].crt)
        errors_are(2)
        fs.write(file, new)
        visit_until("client-a", "client-b")
        errors_are(2)
        only_connections_are(1)
    ]], check = function(log, place)
        if place.name == "nginx" then
            assert.matches("%[error%][^\n]*resty%.mtls: [^\n]*'ssl_%w+_path'", log)
        end
        assert.matches("'ssl_cert_path'", log, 1, true)
        for _, name in ipairs({ "client-a.key", "client-b.key" }) do
            assert.is_nil(log:find(certs.read(name):sub(40, 80), 1, true), log)
        end
    end },

    { "stays in use while the new certificate waits for its key", PAIR .. [[
        visit_until(nil, "client-a")
        fs.write(folder .. "/tls.crt", pem["client-b"].crt)
        errors_are(1)
        visit_for(2.2, "client-a")
        errors_are(1)
        fs.write(folder .. "/tls.key", pem["client-b"].key)
        visit_until("client-a", "client-b")
        errors_are(1)
        only_connections_are(1)
    ]], check = is_logged("the previous one stays in use: key mismatch") },

    { "stays in use when a file was deleted", PAIR .. [[
        visit_until(nil, "client-a")
        os.remove(folder .. "/tls.key")
        errors_are(1)
        visit_for(2.2, "client-a")
        errors_are(1)
        put("tls", "client-b")
        visit_until("client-a", "client-b")
        only_connections_are(1)
    ]], check = is_logged("No such file") },

    { "that cannot be used is not read again before it has changed", ONE_FILE .. [[
        visit_until(nil, "client-a")
        fs.write(file, pem["client-b"].crt)
        errors_are(1)
        local was_opened = require("spec.support.inotify").watch(file)
        visit_for(5.5, "client-a")
        assert(not was_opened(), "it was")
        errors_are(1)
        -- The same file, so that it is still watched.
        fs.overwrite(file, both("client-b"))
        was_opened()
        visit_until("client-a", "client-b")
        assert(was_opened(), "not even then")
    ]] },

    { "goes on when its files were merely touched", PAIR .. [[
        visit_until(nil, "client-a")
        os.execute("touch -d 2020-01-01 '" .. folder .. "/tls.crt'")
        os.execute("chmod 600 '" .. folder .. "/tls.key'")
        visit_for(1.5, "client-a")
    ]], check = assert_no_error },

    { "that cannot be used at first is used when it can", PAIR .. [[
        fs.write(folder .. "/tls.key", "")
        assert(visit() == "bad_key_pem")
        os.remove(folder .. "/tls.crt")
        assert(visit() == "bad_certificate_pem")
        put("tls", "client-b")
        assert(visit() == "client-b")
    ]] },

    { "that is a text is another one when the text is another one", [[
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
    ]] },

    { "that is a text is not held to files that other calls name", PAIR .. [[
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
    ]] },
}


local runs

setup(function() runs = rotation.begin(CASES) end)

teardown(function() runs:stop() end)


for _, place in ipairs(places) do
    describe("an identity, in " .. place.name, function()
        for _, case in ipairs(CASES) do
            it(case[1], function() runs:finish(place, case) end)
        end
    end)
end


describe("files that are replaced under load", function()
    it("fail no request, and leave no request to the old identity once the new one was seen",
       function()
        runs:run(places[2], ONE_FILE .. [[
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
