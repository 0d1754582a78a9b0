local call = require("spec.support.call")
local certs = require("spec.support.certs")
local client = require("spec.support.client")
local fs = require("spec.support.fs")
local identity = require("spec.support.identity")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")


describe("a client identity", function()
    local servers, gateway

    local function assert_authenticates(name, options, only_version)
        for version, server in pairs(servers) do
            if version == (only_version or version) then
                identity.assert_authenticates(gateway, server.port, name, options)
            end
        end
    end

    setup(function()
        servers = {}
        for _, version in ipairs({ "TLSv1.2", "TLSv1.3" }) do
            servers[version] = nginx.upstream({ protocols = version })
        end
        gateway = nginx.gateway()
    end)

    teardown(function()
        gateway:stop()
        for _, server in pairs(servers) do
            server:stop()
        end
    end)

    for _, case in ipairs({
        { "client-a", ".pkcs8.key", "BEGIN PRIVATE KEY" },
        { "client-a", ".sec1.key", "BEGIN EC PRIVATE KEY" },
        { "client-p384", ".pkcs8.key", "BEGIN PRIVATE KEY" },
        { "client-p384", ".sec1.key", "BEGIN EC PRIVATE KEY" },
        { "client-rsa", ".pkcs8.key", "BEGIN PRIVATE KEY" },
        { "client-rsa", ".pkcs1.key", "BEGIN RSA PRIVATE KEY" },
        { "client-ed25519", ".pkcs8.key", "BEGIN PRIVATE KEY" },
    }) do
        local name, form, head = unpack(case)
        it("of " .. name .. form .. " is proven on TLS 1.2 and 1.3", function()
            assert.matches(head, certs.read(name .. form))
            assert_authenticates(name, identity.text_of(name, form))
        end)
    end

    it("of P-521 is proven on TLS 1.3", function()
        -- On TLS 1.2 OpenSSL wants the curve among those that the client exchanges keys with.
        for _, form in ipairs({ ".pkcs8.key", ".sec1.key" }) do
            assert_authenticates("client-p521", identity.text_of("client-p521", form), "TLSv1.3")
        end
    end)

    it("is taken from files", function()
        assert_authenticates("client-b", {
            ssl_cert_path = certs.path("client-b.crt"), ssl_key_path = certs.path("client-b.key"),
        })
    end)

    it("is taken from a text and a file", function()
        assert_authenticates("client-b", {
            ssl_cert = certs.read("client-b.crt"), ssl_key_path = certs.path("client-b.key"),
        })
        assert_authenticates("client-rsa", {
            ssl_cert_path = certs.path("client-rsa.crt"), ssl_key = certs.read("client-rsa.key"),
        })
    end)

    it("is taken from ssl_client_cert and ssl_client_priv_key", function()
        assert_authenticates("client-b", {
            ssl_client_cert = certs.read("client-b.crt"),
            ssl_client_priv_key = certs.read("client-b.key"),
        })
    end)

    it("is sent with the chain behind its leaf", function()
        assert_authenticates("client-chained", identity.text_of("client-chained"))
        -- Without its chain the server cannot verify it: the chain above did matter.
        local outcome = call.make(identity.options_for(servers["TLSv1.3"].port, {
            ssl_cert = certs.read("client-chained.leaf.crt"),
            ssl_key = certs.read("client-chained.key"),
        }))
        assert.equals(400, outcome.status)
    end)

    it("may stand beside other PEM blocks and text, with any line ends", function()
        local both = certs.read("client-a.key") .. certs.read("client-a.crt")
        assert_authenticates("client-a", { ssl_cert = both, ssl_key = both })

        local key = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
            .. certs.read("client-a.sec1.key")
        local certificate = "subject=O = Example, CN = client-a\n\n" .. certs.read("client-a.crt")
        assert_authenticates("client-a", {
            ssl_cert = certificate:gsub("\n", "\r\n"), ssl_key = key:gsub("\n", "\r\n"),
        })
    end)

    it("is not needed", function()
        assert.equals(400, call.make(identity.options_for(servers["TLSv1.3"].port, {})).status)
    end)
end)


describe("a client identity that cannot be used", function()
    local server, gateway

    local function assert_refused(options, code, ...)
        identity.assert_refused(gateway, server.port, options, code, ...)
    end

    setup(function()
        server = peer.start({ script = {
            peer.receive_until("\r\n\r\n"), peer.send("HTTP/1.0 200 OK\r\n\r\n"),
        } })
        gateway = nginx.gateway()
    end)

    local connections = 0

    -- The server accepts connections in the order in which they were made: this one comes behind
    -- those of the refused calls, if there were any.
    after_each(function()
        client.fetch({ port = server.port, path = "/own" })
        local refused = server:connections() - connections - 1
        connections = server:connections()
        assert.matches("^GET /own ", server:received(connections))
        assert.equals(0, refused, "connections of refused calls")
    end)

    teardown(function()
        gateway:stop()
        server:stop()
    end)

    it("is half a pair", function()
        local certificate, key = certs.read("client-a.crt"), certs.read("client-a.key")
        local path, key_path = certs.path("client-a.crt"), certs.path("client-a.key")
        local no_key = "missing 'ssl_key_path' or 'ssl_key' when 'ssl_cert_path' or 'ssl_cert' "
            .. "is given"
        assert_refused({ ssl_cert = certificate }, "bad_argument", no_key)
        assert_refused({ ssl_cert_path = path }, "bad_argument", no_key)
        local no_cert = "missing 'ssl_cert_path' or 'ssl_cert' when 'ssl_key_path' or 'ssl_key' "
            .. "is given"
        assert_refused({ ssl_key = key }, "bad_argument", no_cert)
        assert_refused({ ssl_key_path = key_path }, "bad_argument", no_cert)
        assert_refused({ ssl_client_cert = certificate }, "bad_argument",
                       "missing 'ssl_client_priv_key'")
        assert_refused({ ssl_client_priv_key = key }, "bad_argument", "missing 'ssl_client_cert'")
    end)

    it("is given in two forms at once", function()
        local options = identity.text_of("client-a")
        options.ssl_cert_path = certs.path("client-a.crt")
        assert_refused(options, "bad_argument",
                       "cannot specify both 'ssl_cert' and 'ssl_cert_path'")
        options = identity.text_of("client-a")
        options.ssl_key_path = certs.path("client-a.key")
        assert_refused(options, "bad_argument",
                       "cannot specify both 'ssl_key' and 'ssl_key_path'")
        options = identity.text_of("client-a")
        options.ssl_client_cert, options.ssl_client_priv_key = options.ssl_cert, options.ssl_key
        assert_refused(options, "bad_argument",
                       "cannot specify both 'ssl_cert' and 'ssl_client_cert'")
    end)

    it("is half of one spelling and half of the other", function()
        assert_refused({ ssl_cert = certs.read("client-a.crt"),
                         ssl_client_priv_key = certs.read("client-a.key") }, "bad_argument",
                       "ssl_cert", "ssl_client_")
    end)

    it("has no PEM block", function()
        local key = certs.read("client-a.key")
        for _, text in ipairs({ "", "no PEM", certs.read("client-a.crt.der"), key }) do
            assert_refused({ ssl_cert = text, ssl_key = key }, "bad_certificate_pem", "'ssl_cert'")
        end
        local certificate = certs.read("client-a.crt")
        for _, text in ipairs({ "", "no PEM", certs.read("client-a.key.der"), certificate }) do
            assert_refused({ ssl_cert = certificate, ssl_key = text }, "bad_key_pem", "'ssl_key'")
        end
    end)

    it("is garbage inside of a PEM block", function()
        local certificate, key = certs.read("client-a.crt"), certs.read("client-a.key")
        local function garbage(label, body)
            return ("-----BEGIN %s-----\n%s\n-----END %s-----\n"):format(label, body, label)
        end
        for _, body in ipairs({ "!!!!", "AAAA", "bm90IERFUiBhdCBhbGw=" }) do
            assert_refused({ ssl_cert = garbage("CERTIFICATE", body), ssl_key = key },
                           "bad_certificate_pem", "'ssl_cert'")
            for _, label in ipairs({ "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY" }) do
                assert_refused({ ssl_client_cert = certificate,
                                 ssl_client_priv_key = garbage(label, body) },
                               "bad_key_pem", "'ssl_client_priv_key'")
            end
        end
    end)

    it("is cut off", function()
        local certificate, key = certs.read("client-a.crt"), certs.read("client-a.key")
        for _, part in ipairs({ 0.3, 0.6, 0.95 }) do
            assert_refused({ ssl_cert = certificate:sub(1, part * #certificate), ssl_key = key },
                           "bad_certificate_pem", "'ssl_cert'")
            assert_refused({ ssl_cert = certificate, ssl_key = key:sub(1, part * #key) },
                           "bad_key_pem", "'ssl_key'")
        end
    end)

    it("has a key of another certificate", function()
        for _, form in ipairs({ "client-b.key", "client-rsa.key", "client-ed25519.key" }) do
            assert_refused({ ssl_cert = certs.read("client-a.crt"), ssl_key = certs.read(form) },
                           "key_mismatch", "'ssl_key'", "'ssl_cert'")
        end
        assert_refused({ ssl_cert_path = certs.path("client-a.crt"),
                         ssl_key_path = certs.path("client-b.key") },
                       "key_mismatch", "'ssl_key_path'", "'ssl_cert_path'")
    end)

    it("has a key of a size that is not accepted any more", function()
        assert_refused(identity.text_of("client-rsa1024"), "bad_key_pem", "'ssl_key'")
    end)

    it("is in a file that cannot be read", function()
        local missing = fs.temp_dir("missing") .. "/nothing.pem"
        local path, key_path = certs.path("client-a.crt"), certs.path("client-a.key")
        assert_refused({ ssl_cert_path = missing, ssl_key_path = key_path },
                       "bad_certificate_pem", "'ssl_cert_path'", missing, "No such file")
        assert_refused({ ssl_cert_path = path, ssl_key_path = missing },
                       "bad_key_pem", "'ssl_key_path'", missing, "No such file")
        assert_refused({ ssl_cert_path = path, ssl_key_path = fs.temp_dir("folder") },
                       "bad_key_pem", "'ssl_key_path'")
        assert_refused({ ssl_cert_path = "", ssl_key_path = key_path }, "bad_argument",
                       "'ssl_cert_path'")
    end)

    it("is of a wrong Lua type", function()
        for _, name in ipairs({ "ssl_cert", "ssl_key", "ssl_cert_path", "ssl_key_path",
                                "ssl_client_cert", "ssl_client_priv_key" }) do
            for _, value in ipairs({ 42, true, {} }) do
                assert_refused({ [name] = value }, "bad_argument",
                               "'" .. name .. "': expected a string")
            end
        end
    end)

    it("is meant for plain http", function()
        for _, name in ipairs({ "ssl_cert", "ssl_key", "ssl_cert_path", "ssl_key_path",
                                "ssl_client_cert", "ssl_client_priv_key" }) do
            assert_refused({ scheme = "http", [name] = certs.read("client-a.crt") },
                           "bad_argument", "'" .. name .. "'", "https")
        end
    end)
end)
