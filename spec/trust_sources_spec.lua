-- What ssl_trusted_certificate takes besides one text and one file, which trust_spec.lua has.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local plain = require("spec.support.plain")
local process = require("spec.support.process")
local secure = require("spec.support.secure")

local LOOPBACK = "DNS:localhost"

-- Servers of four CAs that have nothing to do with each other.
certs.add({
    ["list-text"] = { usage = "ca" },
    ["list-file"] = { usage = "ca" },
    ["list-folder"] = { usage = "ca" },
    ["list-system"] = { usage = "ca" },
    ["of-list-text"] = { usage = "server", issuer = "list-text", names = LOOPBACK },
    ["of-list-file"] = { usage = "server", issuer = "list-file", names = LOOPBACK },
    ["of-list-folder"] = { usage = "server", issuer = "list-folder", names = LOOPBACK },
    ["of-list-system"] = { usage = "server", issuer = "list-system", names = LOOPBACK },
})


-- A folder with copies of these files of the PKI, under the names that they are given.
local function folder_of(files)
    local dir = fs.temp_dir("trusted")
    for name, source in pairs(files) do
        fs.write(dir .. "/" .. name, certs.read(source))
    end
    return dir
end


local function code(identity, trusted)
    return (secure.code(secure.server(identity), { ssl_trusted_certificate = trusted }))
end


local function assert_refused(trusted, expected)
    local outcome = secure.call(secure.server("server"), { ssl_trusted_certificate = trusted })
    assert.equals("connect", outcome.at)
    assert.equals("options", outcome.details.stage)
    assert.equals(expected, outcome.details.code, outcome.err)
    assert.matches("'ssl_trusted_certificate'", outcome.err, 1, true)
end


teardown(secure.finish)


describe("ssl_trusted_certificate as a folder", function()
    it("trusts each certificate in it, whatever its file is called", function()
        local dir = folder_of({ ["a.pem"] = "ca.crt", ["no-suffix"] = "list-file.crt",
                                ["c.crt"] = "list-text.crt" })
        for _, path in ipairs({ dir, dir .. "/" }) do
            assert.equals(200, code("server", path))
            assert.equals(200, code("of-list-file", path))
            assert.equals(200, code("of-list-text", path))
            assert.equals("server_certificate_untrusted", code("server-unknown-ca", path))
        end
    end)

    it("trusts every certificate of a file with several", function()
        local dir = fs.temp_dir("trusted")
        fs.write(dir .. "/both.pem", certs.read("ca.crt") .. certs.read("list-file.crt"))
        assert.equals(200, code("server", dir))
        assert.equals(200, code("of-list-file", dir))
    end)

    it("may be one that openssl rehash has been over", function()
        local dir = folder_of({ ["a.pem"] = "ca.crt", ["b.pem"] = "list-file.crt" })
        process.check({ "openssl", "rehash", dir })
        local links = 0
        for name in lfs.dir(dir) do
            if lfs.symlinkattributes(dir .. "/" .. name, "mode") == "link" then
                links = links + 1
            end
        end
        assert.equals(2, links)
        assert.equals(200, code("server", dir))
        assert.equals(200, code("of-list-file", dir))
        assert.equals("server_certificate_untrusted", code("server-unknown-ca", dir))
    end)

    it("may have nothing but links to files elsewhere", function()
        local dir = fs.temp_dir("trusted")
        fs.link(certs.path("ca.crt"), dir .. "/0a1b2c3d.0")
        assert.equals(200, code("server", dir))
    end)

    it("may have other files and folders in it", function()
        local dir = folder_of({ ["a.pem"] = "ca.crt", ["key.pem"] = "list-file.key",
                                ["ca.der"] = "list-text.crt.der" })
        fs.write(dir .. "/README", "What is in here.\n")
        fs.write(dir .. "/empty", "")
        fs.write(dir .. "/binary", ("\0\255\127\n"):rep(100))
        fs.link(dir .. "/nowhere", dir .. "/dangling.pem")
        assert(lfs.mkdir(dir .. "/below"))
        fs.write(dir .. "/below/b.pem", certs.read("list-file.crt"))
        assert.equals(200, code("server", dir))
        -- What is in a folder below is not in the folder.
        assert.equals("server_certificate_untrusted", code("of-list-file", dir))
    end)

    it("may have files in it that cannot be read, or not be parsed", function()
        local pem = certs.read("list-file.crt")
        for what, make in pairs({
            -- Nobody can read from its beginning, not even root.
            ["a link to a process's memory"] = function(path) fs.link("/proc/self/mem", path) end,
            ["a file without permissions"] = function(path)
                fs.write(path, pem)
                process.check({ "chmod", "000", path })
            end,
            ["half a block"] = function(path) fs.write(path, pem:sub(1, 300)) end,
            ["no base64"] = function(path) fs.write(path, (pem:gsub("\nMII", "\n#II"))) end,
            ["no certificate"] = function(path)
                fs.write(path, "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n"
                         .. "-----END CERTIFICATE-----\n")
            end,
        }) do
            -- Read before the others, and after them.
            for _, name in ipairs({ "0.pem", "z.pem" }) do
                local dir = folder_of({ ["a.pem"] = "ca.crt", ["b.pem"] = "list-text.crt" })
                make(dir .. "/" .. name)
                assert.equals(200, code("server", dir), what)
                assert.equals(200, code("of-list-text", dir), what)
                assert.equals(200, code("server", { certs.path("list-text.crt"), dir }), what)
                assert.equals("server_certificate_untrusted", code("server-unknown-ca", dir), what)
            end
        end
    end)

    it("may have certificates in it that follow one that cannot be parsed", function()
        local dir = fs.temp_dir("trusted")
        fs.write(dir .. "/all.pem", "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n"
                 .. "-----END CERTIFICATE-----\n" .. certs.read("ca.crt"))
        assert.equals(200, code("server", dir))
    end)

    it("without any certificate in it is refused", function()
        local unreadable = fs.temp_dir("trusted")
        fs.link("/proc/self/mem", unreadable .. "/ca.pem")
        assert_refused(unreadable, "bad_certificate_pem")
        assert_refused(fs.temp_dir("trusted"), "bad_certificate_pem")
        assert_refused(folder_of({ ["key.pem"] = "client-a.key" }), "bad_certificate_pem")
    end)
end)


describe("ssl_trusted_certificate as a list", function()
    it("trusts what any of its elements trusts", function()
        local list = {
            certs.read("list-text.crt"), certs.path("list-file.crt"),
            folder_of({ ["a.pem"] = "list-folder.crt" }),
        }
        local servers = { "of-list-text", "of-list-file", "of-list-folder" }
        for i, identity in ipairs(servers) do
            assert.equals(200, code(identity, list))
            assert.equals(200, code(identity, { list[i] }))
            -- Each is trusted because of its own element, and of no other.
            local others = { unpack(list) }
            table.remove(others, i)
            assert.equals("server_certificate_untrusted", code(identity, others))
        end
        assert.equals("server_certificate_untrusted", code("server", list))
    end)

    -- SSL_CERT_FILE stands in for the system's CAs.
    local with_system = [[
        local secure = require("spec.support.secure")
        local lists = {
            { ${pem.list-text.crt}, "${cert.list-file.crt}", "${folder}", "system" },
            { "system" },
            { ${pem.list-text.crt}, "${cert.list-file.crt}", "${folder}" },
        }
        for _, list in ipairs(lists) do
            local codes = {}
            for i, port in ipairs({ ${text}, ${file}, ${dir_port}, ${system} }) do
                codes[i] = secure.code({ port = port }, { ssl_trusted_certificate = list })
            end
            print(unpack(codes))
        end
    ]]
    local untrusted = "server_certificate_untrusted"
    local expected = table.concat({
        "200\t200\t200\t200",
        table.concat({ untrusted, untrusted, untrusted, "200" }, "\t"),
        table.concat({ "200", "200", "200", untrusted }, "\t"),
    }, "\n") .. "\n"

    local function opts()
        return {
            env = { SSL_CERT_FILE = certs.path("list-system.crt") },
            vars = {
                folder = folder_of({ ["a.pem"] = "list-folder.crt" }),
                text = secure.server("of-list-text").port,
                file = secure.server("of-list-file").port,
                dir_port = secure.server("of-list-folder").port,
                system = secure.server("of-list-system").port,
            },
        }
    end

    it("may have the system's CAs in it, in plain luajit", function()
        assert.equals(expected, plain.run_lua(with_system, opts()))
    end)

    it("may have the system's CAs in it, in nginx", function()
        assert.equals(expected, nginx.run_lua(with_system, opts()))
    end)

    it("is compared by content", function()
        local server = nginx.upstream({ verify = "off" })
        local function reused(list)
            return secure.call(server, { ssl_trusted_certificate = list, keep = true }).reused
        end
        assert.equals(0, reused({ certs.path("ca.crt"), certs.read("list-file.crt") }))
        assert.equals(1, reused({ certs.path("ca.crt"), certs.read("list-file.crt") }))
        assert.equals(0, reused({ certs.path("ca.crt") }))
        assert.equals(0, reused({ certs.path("ca.crt"), certs.read("list-text.crt") }))
        server:stop()
    end)

    it("is told apart from the lists of other calls, whatever options these are in", function()
        -- ssl_verify and ssl_session_reuse take any value, lists too. The second call has what the
        -- first has, in the same order; it does not turn verification off, and trusts the system.
        assert.equals("200\nserver_certificate_untrusted\n200\n", plain.run_lua([[
            local secure = require("spec.support.secure")
            local function visit(options)
                print((secure.code({ port = ${port} }, options)))
            end
            visit({ ssl_verify = false, ssl_trusted_certificate = { "${cert.ca.crt}" },
                    ssl_session_reuse = { "TLSv1.2" } })
            visit({ ssl_verify = { false, "${cert.ca.crt}" }, ssl_trusted_certificate = false,
                    ssl_max_version = "TLSv1.2", ssl_session_reuse = {} })
            visit({ ssl_verify = { false }, ssl_trusted_certificate = "${cert.ca.crt}" })
        ]], { env = { SSL_CERT_FILE = certs.path("list-system.crt") },
              vars = { port = secure.server("server").port } }))
    end)

    it("is taken as it is at each call", function()
        local list = { certs.path("ca.crt") }
        assert.equals(200, code("server", list))
        list[1] = certs.path("list-file.crt")
        assert.equals("server_certificate_untrusted", code("server", list))
        list[2] = certs.path("ca.crt")
        assert.equals(200, code("server", list))
        list[2] = nil
        assert.equals("server_certificate_untrusted", code("server", list))
    end)

    it("may be a default, which is taken by value", function()
        local list = { certs.path("ca.crt"), certs.read("list-file.crt") }
        assert(http.set_defaults({ ssl_trusted_certificate = list }))
        list[1] = certs.path("list-text.crt")
        local ok, err = pcall(function()
            assert.equals(200, code("server", false))
            assert.equals(200, code("of-list-file", false))
            assert.equals("server_certificate_untrusted", code("of-list-text", false))
        end)
        assert(http.set_defaults({ ssl_trusted_certificate = "system" }))
        assert(ok, err)
    end)

    it("is refused if it is empty or has something else in it", function()
        local good = certs.path("ca.crt")
        assert_refused({}, "bad_argument")
        assert_refused({ good, 42 }, "bad_argument")
        assert_refused({ good, "" }, "bad_argument")
        assert_refused({ good, { good } }, "bad_argument")
        assert_refused({ ca = good }, "bad_argument")
        assert_refused({ good, "/nowhere/ca.pem" }, "bad_certificate_pem")
        assert_refused({ good, certs.read("client-a.key") }, "bad_certificate_pem")
        assert_refused({ good, fs.temp_dir("trusted") }, "bad_certificate_pem")
    end)
end)
