-- The command line of resty-mtls-check, and its JSON.
local arguments = require("resty.mtls.check.arguments")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local json = require("resty.mtls.check.json")
local text = require("resty.mtls.check.text")

local no_environment = function() end


-- The connect options of a command line.
local function options_of(...)
    local wanted, err = arguments.parse({ ... }, no_environment)
    assert(wanted, err)
    assert.equals("check", wanted.action)
    return wanted.options
end


describe("the server on the command line", function()
    it("is a host and a port, or a URI", function()
        for target, expected in pairs({
            ["target.server"] = { host = "target.server", port = 443 },
            ["target.server:8443"] = { host = "target.server", port = 8443 },
            ["127.0.0.1:8443"] = { host = "127.0.0.1", port = 8443 },
            ["::1"] = { host = "::1", port = 443 },
            ["2001:db8::7"] = { host = "2001:db8::7", port = 443 },
            ["[::1]"] = { host = "::1", port = 443 },
            ["[::1]:8443"] = { host = "::1", port = 8443 },
            ["https://target.server"] = { host = "target.server", port = 443 },
            ["https://target.server/"] = { host = "target.server", port = 443, path = "/" },
            ["https://target.server:8443/a/b?c=d#e"] = { host = "target.server", port = 8443,
                                                         path = "/a/b?c=d" },
            ["https://target.server?c=d"] = { host = "target.server", port = 443,
                                              path = "/?c=d" },
            ["https://target.server#e"] = { host = "target.server", port = 443 },
            ["HTTPS://[::1]:8443/a"] = { host = "::1", port = 8443, path = "/a" },
        }) do
            assert.same(expected, options_of(target), target)
        end
    end)

    it("is refused where it is something else", function()
        for _, target in ipairs({ "", "host:", "host:x", "host:0", "host:65536", "host/path",
                                  "[::1", "[::1]x", "[::1]443", ":443", "http://host/",
                                  "ftp://host/", "https://", "https://user:secret@host/" }) do
            local wanted, err = arguments.parse({ target }, no_environment)
            assert.is_nil(wanted, target)
            assert.equals("string", type(err))
            assert.not_matches("secret", err)
        end
    end)
end)


describe("an option on the command line", function()
    it("becomes one of connect", function()
        assert.same({
            host = "h", port = 443, path = "/p", timeout = 1500,
            ssl_cert_path = "c.pem", ssl_key_path = "k.pem",
            ssl_trusted_certificate = { "a.pem", "b" }, ssl_crl = "r.pem",
            ssl_pinned_pubkey = "sha256//QUE=;sha256//QkI=", ssl_server_name = "n",
            ssl_verify = false, ssl_min_version = "TLSv1.2", ssl_max_version = "TLSv1.3",
            http_version = 2,
        }, options_of("--cert", "c.pem", "--key=k.pem", "h", "--ca", "a.pem", "--ca=b",
            "--crl", "r.pem", "--pin", "sha256//QUE=", "--pin", "sha256//QkI=",
            "--server-name", "n", "--insecure", "--min-version", "1.2",
            "--max-version", "tlsv1.3", "--path", "/p", "--timeout", "1500",
            "--http-version", "2"))
        assert.same({ host = "h", port = 443, ssl_pkcs12 = "i.p12" },
                    options_of("--pkcs12", "i.p12", "--", "h"))
    end)

    it("may be left out", function()
        assert.equals("one.pem", options_of("h", "--ca", "one.pem").ssl_trusted_certificate)
        -- One file may have both.
        assert.equals("both.pem", options_of("h", "--cert", "both.pem").ssl_key_path)
        -- The path of the URI gives way.
        assert.equals("/b", options_of("https://h/a", "--path", "/b").path)
    end)

    it("tells a key that was given from one that is assumed", function()
        for expected, argv in pairs({ [true] = { "h", "--cert", "c" },
                                      [false] = { "h", "--cert", "c", "--key", "c" } }) do
            assert.equals(expected, arguments.parse(argv, no_environment).assumes_key)
        end
        assert.is_false(arguments.parse({ "h" }, no_environment).assumes_key)
    end)

    it("is refused where it is wrong", function()
        for _, case in ipairs({
            { "no server" }, { "no server", "--json" }, { "more than one", "a", "b" },
            { "more than one", "a", "--", "b" }, { "no option --nonsense", "--nonsense", "h" },
            { "no option -k", "-k", "h" }, { "--cert needs a value", "h", "--cert" },
            { "--cert needs a value", "h", "--cert=" }, { "given twice", "h", "--path", "/",
                                                         "--path", "/" },
            { "--key needs --cert", "h", "--key", "k" },
            { "--pkcs12 goes without", "h", "--pkcs12", "p", "--cert", "c" },
            { "--key-password-file needs", "h", "--key-password-file", "p" },
            { "--min-version is", "h", "--min-version", "TLSv1.1" },
            { "--max-version is", "h", "--max-version", "3" },
            { "--http-version is", "h", "--http-version", "3" },
            { "--timeout is", "h", "--timeout", "0" }, { "--timeout is", "h", "--timeout", "1e3" },
            { "--path has to begin", "h", "--path", "p" },
        }) do
            local wanted, err = arguments.parse({ unpack(case, 2) }, no_environment)
            assert.is_nil(wanted, case[1])
            assert.matches(case[1], err, 1, true)
        end
    end)

    it("takes a passphrase from a file or from the environment", function()
        local path = fs.temp_dir("password") .. "/password"
        for content, expected in pairs({ ["one two"] = "one two", ["one\n"] = "one",
                                         ["one\r\ntwo\n"] = "one", [" one "] = " one " }) do
            fs.write(path, content)
            assert.equals(expected, options_of("h", "--cert", "c", "--key-password-file", path)
                .ssl_key_password)
        end

        local function getenv(name)
            return name == "RESTY_MTLS_KEY_PASSWORD" and "of the environment" or nil
        end
        local wanted = arguments.parse({ "h", "--pkcs12", "p" }, getenv)
        assert.equals("of the environment", wanted.options.ssl_key_password)
        -- Nothing to decrypt.
        assert.is_nil(arguments.parse({ "h" }, getenv).options.ssl_key_password)

        fs.write(path, "")
        for _, name in ipairs({ path, path .. ".missing" }) do
            local refused, err = arguments.parse({ "h", "--cert", "c", "--key-password-file",
                                                   name }, no_environment)
            assert.is_nil(refused)
            assert.matches("cannot read a passphrase", err)
        end
    end)
end)


describe("JSON", function()
    it("is what cjson reads", function()
        local value = {
            text = "a \"quoted\" \\ line\n\t\1\127 and \195\164\226\130\172\240\159\152\128",
            whole = 42, part = 1.25, negative = -3, yes = true, no = false,
            list = { { name = "a" }, { name = "b", deeper = { { "c" } } } },
        }
        assert.same(value, cjson.decode(json.encode(value)))
    end)

    it("has empty lists as lists", function()
        assert.equals('{\n  "a": [],\n  "b": [\n    1,\n    2\n  ]\n}',
                      json.encode({ a = {}, b = { 1, 2 } }))
    end)

    it("has no bytes that are not UTF-8", function()
        for bytes, expected in pairs({
            ["a\255b"] = "a\239\191\189b", ["\195"] = "\239\191\189",
            -- Overlong, a surrogate, and beyond the end of Unicode.
            ["\192\175"] = ("\239\191\189"):rep(2), ["\237\160\128"] = ("\239\191\189"):rep(3),
            ["\244\144\128\128"] = ("\239\191\189"):rep(4),
            ["\195\164\164"] = "\195\164\239\191\189",
        }) do
            assert.equals('"' .. expected .. '"', json.encode(bytes))
        end
    end)
end)


describe("text", function()
    local report = {
        ok = false, verdict = "It is so.", host = "h", port = 443,
        server = { chain = { { subject = "CN=\27[31mred\7", issuer = "CN=a\nb" } } },
        client = { acceptable_cas = {}, result = "unknown" },
        findings = { { level = "fault", about = "server", code = "c",
                       text = ("word "):rep(60), hint = "do it" } },
    }

    it("lets no server send commands to the terminal", function()
        local page = text.of(report)
        assert.not_matches("[^\n%C]", page)
        assert.matches("CN=?[31mred?", page, 1, true)
    end)

    it("has lines of a readable length, and the verdict in the last one", function()
        local page, last = text.of(report), nil
        for line in page:gmatch("([^\n]*)\n") do
            assert.is_true(#line <= 100, line)
            last = line
        end
        assert.equals("FAULT: It is so.", last)
    end)
end)
