--- Who exists in the PKI of the specs. The subject is "CN=<name>,O=Example" unless told otherwise.

---@class Identity
---@field usage "ca"|"server"|"client"|nil may be missing where `extensions` is given
---@field issuer string? name of the identity that signs; itself unless given
---@field key "p256"|"p384"|"p521"|"rsa1024"|"rsa2048"|"ed25519"? p256 unless given
---@field key_of string? name of the identity whose key it has too, in place of one of its own
---@field names string? subjectAltName in openssl's notation
---@field extensions string? in place of those of the usage and of `names`; "" makes X.509 version 1
---@field common_name string?
---@field from string? valid from, YYYYMMDDHHMMSSZ
---@field to string? valid until

local LOOPBACK = "DNS:localhost,DNS:target.server,IP:127.0.0.1"
local PAST, LESS_PAST = "20200101000000Z", "20200201000000Z"
local FUTURE = "20480101000000Z"

---@type table<string, Identity>
return {
    ["ca"] = { usage = "ca", common_name = "Test CA" },
    ["other-ca"] = { usage = "ca", common_name = "Other CA" },
    ["intermediate"] = { usage = "ca", issuer = "ca", common_name = "Test Intermediate CA" },
    ["intermediate-rsa"] = { usage = "ca", issuer = "ca", common_name = "Test RSA Intermediate CA",
                             key = "rsa2048" },

    ["server"] = { usage = "server", issuer = "ca", names = LOOPBACK },
    ["server-rsa"] = { usage = "server", issuer = "ca", names = LOOPBACK, key = "rsa2048" },
    ["server-p384"] = { usage = "server", issuer = "ca", names = LOOPBACK, key = "p384" },
    ["server-ed25519"] = { usage = "server", issuer = "ca", names = LOOPBACK, key = "ed25519" },
    ["server-chained"] = { usage = "server", issuer = "intermediate", names = LOOPBACK },
    ["server-chained-rsa"] = { usage = "server", issuer = "intermediate-rsa", names = LOOPBACK,
                               key = "rsa2048" },
    ["server-chained-p384"] = { usage = "server", issuer = "intermediate", names = LOOPBACK,
                                key = "p384" },
    ["server-chained-ed25519"] = { usage = "server", issuer = "intermediate", names = LOOPBACK,
                                   key = "ed25519" },
    ["server-expired"] = { usage = "server", issuer = "ca", names = LOOPBACK,
                           from = PAST, to = LESS_PAST },
    ["server-not-yet-valid"] = { usage = "server", issuer = "ca", names = LOOPBACK,
                                 from = FUTURE },
    ["server-wrong-name"] = { usage = "server", issuer = "ca",
                              names = "DNS:elsewhere.example,DNS:*.elsewhere.example" },
    -- Names the host in the subject alone, as certificates did long ago.
    ["server-no-san"] = { usage = "server", issuer = "ca", common_name = "localhost" },
    ["server-unknown-ca"] = { usage = "server", issuer = "other-ca", names = LOOPBACK },
    ["server-self-signed"] = { usage = "server", names = LOOPBACK },
    ["server-revoked"] = { usage = "server", issuer = "ca", names = LOOPBACK },
    ["server-client-usage"] = { usage = "client", issuer = "ca", names = LOOPBACK },

    ["client-a"] = { usage = "client", issuer = "ca" },
    ["client-b"] = { usage = "client", issuer = "ca" },
    ["client-rsa"] = { usage = "client", issuer = "ca", key = "rsa2048" },
    ["client-p384"] = { usage = "client", issuer = "ca", key = "p384" },
    ["client-p521"] = { usage = "client", issuer = "ca", key = "p521" },
    -- Too small for what we accept.
    ["client-rsa1024"] = { usage = "client", issuer = "ca", key = "rsa1024" },
    ["client-ed25519"] = { usage = "client", issuer = "ca", key = "ed25519" },
    ["client-chained"] = { usage = "client", issuer = "intermediate" },
    ["client-chained-rsa"] = { usage = "client", issuer = "intermediate-rsa", key = "rsa2048" },
    ["client-chained-p384"] = { usage = "client", issuer = "intermediate", key = "p384" },
    ["client-chained-ed25519"] = { usage = "client", issuer = "intermediate", key = "ed25519" },
    ["client-expired"] = { usage = "client", issuer = "ca", from = PAST, to = LESS_PAST },
    ["client-revoked"] = { usage = "client", issuer = "ca" },
    ["client-server-usage"] = { usage = "server", issuer = "ca" },
    ["client-other-ca"] = { usage = "client", issuer = "other-ca" },
}
