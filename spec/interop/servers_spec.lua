-- Real servers, with every kind of key that they and we have, on both sides: all pairs of server
-- key and client key, on TLS 1.2 and 1.3, with certificates that the root has issued itself and
-- with an intermediate CA in between, required, or optional and given or not.
--
-- There is no cell that a server cannot do: all five take Ed25519 on TLS 1.2 as well. They differ
-- in what "optional" means to them. nginx, httpd, gnutls-serv and s_server still verify what they
-- get; Node takes any certificate then and leaves the verdict to the application, which here is
-- spec/support/node_server.js. And httpd, Node and s_server send the root as well if nothing is
-- configured to stand behind their certificate, and they know the root, here from their clients.
local secure = require("spec.support.secure")
local sites = require("spec.support.sites")


-- Names as in certs/identities.lua, behind "server" and "client", and as get_ssl_info has them.
local KEYS = {
    { name = "RSA 2048", server = "server-rsa", client = "client-rsa", suffix = "-rsa" },
    { name = "ECDSA P-256", server = "server", client = "client-a", suffix = "" },
    { name = "ECDSA P-384", server = "server-p384", client = "client-p384", suffix = "-p384" },
    { name = "Ed25519", server = "server-ed25519", client = "client-ed25519",
      suffix = "-ed25519" },
}


-- All certificates of one side: name, kind of key, and the CAs behind it.
local function identities(side)
    local list = {}
    for _, key in ipairs(KEYS) do
        local intermediate = key.suffix == "-rsa" and "Test RSA Intermediate CA"
            or "Test Intermediate CA"
        list[#list + 1] = { name = key[side], key = key.name }
        list[#list + 1] = { name = side .. "-chained" .. key.suffix, key = key.name,
                            intermediate = intermediate }
    end
    return list
end


local SERVERS, CLIENTS = identities("server"), identities("client")


local function site_name(version, verify, identity)
    local name = version .. "_" .. verify .. "_" .. identity
    return (name:gsub("[^%w]", "_"))
end


local function all_sites()
    local list = {}
    for _, version in ipairs({ "1.2", "1.3" }) do
        for _, verify in ipairs({ "require", "optional" }) do
            for _, server in ipairs(SERVERS) do
                list[site_name(version, verify, server.name)] = {
                    version = version, verify = verify, cert = server.name,
                }
            end
        end
    end
    return list
end


local SENDS_ROOT = { httpd = true, node = true, s_server = true }


-- Subjects of what a server sends.
local function chain_of(kind, server)
    return { "O=Example, CN=" .. server.name,
             server.intermediate and "O=Example, CN=" .. server.intermediate
             or SENDS_ROOT[kind] and "O=Example, CN=Test CA" or nil }
end


local function subjects(chain)
    local list = {}
    for i, certificate in ipairs(chain) do
        list[i] = certificate.subject
    end
    return list
end


-- One request, without a certificate unless there is a `client`, seen from both ends.
local function assert_serves(kind, port, version, server, client)
    local outcome = secure.call({ port = port }, client and secure.as(client.name))
    local who = client and client.name or "nobody"
    assert.equals(200, outcome.status, who .. ": " .. (outcome.err or ""))
    assert.same({ protocol = "TLSv" .. version, common_name = client and client.name },
                sites.seen(outcome), who)

    local ssl = outcome.ssl
    assert.equals("TLSv" .. version, ssl.version, who)
    assert.is_true(ssl.requested, who)
    assert.equals(server.key, ssl.server.key, who)
    assert.same(chain_of(kind, server), subjects(ssl.chain), who)
    if client then
        assert.equals("O=Example, CN=" .. client.name, ssl.identity.subject)
        assert.equals(client.key, ssl.identity.key)
    else
        assert.is_nil(ssl.identity)
    end
end


for _, kind in ipairs(sites.KINDS) do
    describe(kind, function()
        local servers

        setup(function() servers = sites.start(kind, all_sites()) end)

        teardown(function() servers:stop() end)

        for _, version in ipairs({ "1.2", "1.3" }) do
            for _, server in ipairs(SERVERS) do
                local what = string.format("as %s on TLS %s", server.name, version)
                local function port(verify)
                    return servers.ports[site_name(version, verify, server.name)]
                end

                it("requires and gets client certificates " .. what, function()
                    for _, client in ipairs(CLIENTS) do
                        assert_serves(kind, port("require"), version, server, client)
                    end
                end)

                it("asks for client certificates and gets them " .. what, function()
                    for _, client in ipairs(CLIENTS) do
                        assert_serves(kind, port("optional"), version, server, client)
                    end
                end)

                it("asks for a client certificate and does without one " .. what, function()
                    assert_serves(kind, port("optional"), version, server, nil)
                end)
            end
        end
    end)
end
