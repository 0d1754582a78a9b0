-- Client certificates that a server does not take, on each kind of server, TLS 1.2 and 1.3: what a
-- caller is told. What a server tells decides on how much that can be:
--
--                       httpd, s_server     gnutls-serv         node        nginx
--     none              40 or 116           50 or 116           40 or 116   status 400
--     expired           45                  49                  closes      status 400
--     unknown CA        48                  49                  closes      status 400
--     no intermediate   48                  49                  closes      status 400
--     revoked           44                  49                  closes      status 400
--     for servers only  43                  takes it            closes      status 400
--
-- The numbers are alerts. gnutls-serv sends one, access_denied, for all that it finds in a
-- certificate, and does not look for clientAuth. Node has OpenSSL finish the handshake, judges
-- then, and closes without a word; only a missing certificate is refused by OpenSSL. nginx
-- finishes the handshake as well, and answers.
local certs = require("spec.support.certs")
local crl = require("spec.support.certs.crl")
local secure = require("spec.support.secure")
local sites = require("spec.support.sites")


-- `code` is what a caller is told; where this takes more than a "no" from the server, `vague_code`
-- is what it is told otherwise. `hint`: what has to stand in it, plain. `nginx`: its own verdict.
local FAULTS = {
    { name = "that is missing", alert = { ["1.2"] = 40, ["1.3"] = 116 },
      code = "client_certificate_required", hint = { "ssl_cert", "ssl_key" },
      nginx = "^NONE$", page = "No required SSL certificate was sent" },
    { name = "that has expired", identity = "client-expired", alert = 45,
      code = "client_certificate_expired", hint = { "CN=client-expired", "2020-02-01" },
      nginx = "certificate has expired" },
    { name = "of an unknown CA", identity = "client-other-ca", alert = 48,
      code = "client_certificate_unknown_ca", hint = { "CN=Other CA", "accepts", "CN=Test CA" },
      nginx = "unable to verify the first certificate" },
    { name = "without its intermediate CA", identity = "client-chained", leaf_only = true,
      alert = 48, code = "client_certificate_unknown_ca",
      hint = { "CN=Test Intermediate CA", "accepts", "CN=Test CA" },
      nginx = "unable to verify the first certificate" },
    { name = "that is revoked", identity = "client-revoked", alert = 44,
      code = "client_certificate_revoked", vague_code = "client_certificate_rejected",
      hint = { "CN=client-revoked" }, nginx = "certificate revoked" },
    { name = "for servers only", identity = "client-server-usage", alert = 43,
      code = "client_certificate_rejected",
      hint = { "CN=client-server-usage", "its extended key usage lacks clientAuth" },
      nginx = "unsuitable certificate purpose" },
}


local function assert_hint(outcome, phrases)
    for _, phrase in ipairs(phrases) do
        assert.matches(phrase, outcome.details.hint, 1, true)
    end
end


-- TLS 1.3 servers judge the certificate after the client believes that it is connected.
local function assert_failed(outcome, version, code, alert)
    local details = outcome.details or {}
    assert.same({ version == "1.2" and "connect" or "request", code, alert },
                { outcome.at, details.code, details.alert },
                outcome.err or "status " .. tostring(outcome.status))
end


local function assert_rejected(outcome, version, fault, code, alert)
    assert_failed(outcome, version, code, type(alert) == "table" and alert[version] or alert)
    assert.matches("^handshake failed", outcome.err)
    assert_hint(outcome, fault.hint)
end


-- What each kind of server makes of a fault.
local verdicts = {}

function verdicts.httpd(outcome, version, fault)
    assert_rejected(outcome, version, fault, fault.code, fault.alert)
end


verdicts.s_server = verdicts.httpd


verdicts["gnutls-serv"] = function(outcome, version, fault)
    if fault.identity == "client-server-usage" then
        assert.equals(200, outcome.status, outcome.err)
        return
    end
    local alert = fault.identity and 49 or { ["1.2"] = 50, ["1.3"] = 116 }
    assert_rejected(outcome, version, fault, fault.vague_code or fault.code, alert)
end


function verdicts.node(outcome, version, fault)
    if not fault.identity then
        verdicts.httpd(outcome, version, fault)
        return
    end
    assert_failed(outcome, version, "closed", nil)
    assert.equals("closed", outcome.err)
    assert_hint(outcome, { "ssl_cert" })
end


function verdicts.nginx(outcome, _, fault)
    assert.equals(400, outcome.status, outcome.err)
    assert.matches(fault.nginx, outcome.headers["X-Verify"])
    assert.matches(fault.page or "The SSL certificate error", outcome.body, 1, true)
    assert.is_true(outcome.ssl.requested)
    assert.equals(fault.identity ~= nil, outcome.ssl.identity ~= nil)
end


for _, kind in ipairs(sites.KINDS) do
    describe(kind, function()
        local servers

        setup(function()
            local lists = crl.join(crl.path("ca", { revoked = { "client-revoked" } }),
                                   crl.path("intermediate"))
            servers = sites.start(kind, {
                require_1_2 = { version = "1.2", crl = lists },
                require_1_3 = { version = "1.3", crl = lists },
                optional_1_2 = { version = "1.2", crl = lists, verify = "optional" },
                optional_1_3 = { version = "1.3", crl = lists, verify = "optional" },
            })
        end)

        teardown(function() servers:stop() end)

        -- As the identity of a fault, to a server with this demand.
        local function call(demand, version, fault)
            local options = fault.identity and secure.as(fault.identity) or {}
            if fault.leaf_only then
                options.ssl_cert_path = certs.path(fault.identity .. ".leaf.crt")
            end
            local port = servers.ports[demand .. "_" .. version:gsub("%.", "_")]
            return secure.call({ port = port }, options)
        end

        for _, version in ipairs({ "1.2", "1.3" }) do
            it("takes certificates without a fault, TLS " .. version, function()
                for _, identity in ipairs({ "client-a", "client-chained" }) do
                    local outcome = call("require", version, { identity = identity })
                    assert.equals(200, outcome.status, outcome.err)
                    assert.equals(identity, sites.seen(outcome).common_name)
                end
            end)

            for _, fault in ipairs(FAULTS) do
                it("gets a certificate " .. fault.name .. ", TLS " .. version, function()
                    verdicts[kind](call("require", version, fault), version, fault)
                end)
            end

            it("gets faulty certificates that are optional, TLS " .. version, function()
                for _, fault in ipairs(FAULTS) do
                    local outcome = call("optional", version, fault)
                    if kind == "node" or not fault.identity then
                        assert.equals(200, outcome.status, outcome.err)
                        assert.is_nil(sites.seen(outcome).common_name)
                    else
                        verdicts[kind](outcome, version, fault)
                    end
                end
            end)
        end
    end)
end
