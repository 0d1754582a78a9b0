--- A world of many callers and places, to see whether any request is made as somebody else: an
--- upstream that says whom it saw, two proxies, identities, trusts. isolation_calls.lua makes the
--- calls.
---
---     local world = isolation.start()
---     local seen = world:run({ name = "h1", versions = { 1.1 }, seed = 1, visits = 1000 })
---     world:stop()
local callers = require("spec.support.isolation_callers")
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local nginx = require("spec.support.nginx")
local pins = require("spec.support.certs.pins")
local pkcs12 = require("spec.support.certs.pkcs12")
local process = require("spec.support.process")
local squid = require("spec.support.squid")

local _M = {}

certs.add({
    ["origin"] = { usage = "server", issuer = "ca", names = "DNS:origin.test,DNS:www.origin.test" },
    ["origin-other-ca"] = { usage = "server", issuer = "other-ca",
                            names = "DNS:origin.test,DNS:www.origin.test" },
    -- What could be taken for client-a: its key with another certificate, its name with another
    -- key, and its name from another CA.
    ["client-a-renewed"] = { usage = "client", issuer = "ca", key_of = "client-a",
                             common_name = "client-a" },
    ["client-a-namesake"] = { usage = "client", issuer = "ca", common_name = "client-a" },
    ["client-a-other-ca"] = { usage = "client", issuer = "other-ca", key_of = "client-a",
                              common_name = "client-a" },
    ["client-turn-1"] = { usage = "client", issuer = "ca", common_name = "client-turn" },
    ["client-turn-2"] = { usage = "client", issuer = "ca", common_name = "client-turn" },
    ["client-turn-3"] = { usage = "client", issuer = "ca", common_name = "client-turn" },
    ["client-turn-4"] = { usage = "client", issuer = "ca", common_name = "client-turn" },
})

local TURNS = { "client-turn-1", "client-turn-2", "client-turn-3", "client-turn-4" }

-- Three names at each of the TLS listeners. Every 7th request of an HTTP/1.1 connection is not
-- answered, as if the connection had just been closed for having been idle.
local UPSTREAM = [[
    log_format seen "$FIELDS|$status";
    ssl_client_certificate ${dir}/clients.crt;
    ssl_verify_client optional;
    ssl_verify_depth 3;
    http2_max_concurrent_streams 8;
    map "$server_protocol $connection_requests" $is_gone {
        default 0;
        "HTTP/1.1 7" 1;
    }
    $SERVERS
    server {
        listen 127.0.0.1:${port.plain};
        set $place plain;
        $LOCATIONS
    }
]]

local SERVER = [[
    server {
        listen 127.0.0.1:${port.$PLACE} ssl $LISTEN;
        server_name $NAME;
        ssl_certificate ${cert.$CERT.crt};
        ssl_certificate_key ${cert.$CERT.key};
        ssl_protocols $PROTOCOLS;
        $MORE
        set $place $PLACE;
        $LOCATIONS
    }
]]

local LOCATIONS = [[
    access_log ${dir}/seen.log seen;
    location = /echo {
        if ($is_gone) { return 444; }
        return 200 "$FIELDS";
    }
    location = /late {
        content_by_lua_block {
            ngx.sleep(0.005)
            ngx.print(ngx.var.text)
        }
        set $text "$FIELDS";
    }
]]

-- Which certificate a name gets; the first is that of all other names.
local NAMES = { "localhost", "origin.test", "www.origin.test" }
local MIXED = { "server", "origin", "origin-other-ca" }
local PLACES = {
    { name = "a12", protocols = "TLSv1.2", listen = "http2", certs = MIXED },
    { name = "a13", protocols = "TLSv1.3", listen = "http2", certs = MIXED },
    -- Connections do not last here.
    { name = "brief", protocols = "TLSv1.2 TLSv1.3", listen = "http2",
      certs = { "server-unknown-ca", "origin-other-ca", "origin" },
      more = "keepalive_requests 5; keepalive_timeout 30ms;" },
    -- This one does not know of HTTP/2.
    { name = "old", protocols = "TLSv1.2 TLSv1.3", listen = "", certs = MIXED },
}

local ISSUERS = { ["server"] = "ca", ["origin"] = "ca", ["server-unknown-ca"] = "other-ca",
                  ["origin-other-ca"] = "other-ca" }

---@class Isolation
---@field description table for isolation_calls.lua
---@field proxies Squid[]
---@field folder string with the file of the identity that changes
local World = {}
World.__index = World


local function upstream_text()
    local servers = {}
    for _, place in ipairs(PLACES) do
        for i, name in ipairs(NAMES) do
            servers[#servers + 1] = SERVER:gsub("%$([A-Z]+)", {
                PLACE = place.name, LISTEN = place.listen, NAME = name, CERT = place.certs[i],
                PROTOCOLS = place.protocols, MORE = place.more or "",
            })
        end
    end
    local fields = {}
    for i, field in ipairs(callers.FIELDS) do
        fields[i] = "$" .. field.variable
    end
    local text = UPSTREAM:gsub("%$SERVERS", (table.concat(servers):gsub("%%", "%%%%")))
    text = text:gsub("%$LOCATIONS", LOCATIONS)
    return (text:gsub("%$FIELDS", table.concat(fields, "|")))
end


-- As nginx's $ssl_client_fingerprint has it.
local function fingerprint(name)
    local text = process.check({ "openssl", "x509", "-noout", "-fingerprint", "-sha1", "-in",
                                 certs.path(name .. ".leaf.crt") })
    return text:match("=([%x:]+)"):gsub(":", ""):lower()
end


local function text_of(name, key_form)
    return { ssl_cert = certs.read(name .. ".crt"),
             ssl_key = certs.read(name .. (key_form or ".key")),
             ssl_key_password = key_form and certs.PASSPHRASE }
end


local function files_of(name, key_form)
    return { ssl_cert_path = certs.path(name .. ".crt"),
             ssl_key_path = certs.path(name .. (key_form or ".key")),
             ssl_key_password = key_form and certs.PASSPHRASE }
end


-- Options by the identity that they are; several may be the same one in another form.
local function identities(folder)
    local turn = folder .. "/turn.pem"
    local list = {
        { "nobody", {} },
        { "client-a", text_of("client-a") },
        { "client-a", files_of("client-a") },
        { "client-a", { ssl_pkcs12 = pkcs12.path("client-a"),
                        ssl_key_password = certs.PASSPHRASE } },
        { "client-a-renewed", text_of("client-a-renewed") },
        { "client-a-namesake", files_of("client-a-namesake") },
        { "client-a-other-ca", text_of("client-a-other-ca") },
        { "client-b", text_of("client-b", ".encrypted.key") },
        { "client-b", files_of("client-b", ".encrypted.key") },
        { "client-rsa", { ssl_client_cert = certs.read("client-rsa.crt"),
                          ssl_client_priv_key = certs.read("client-rsa.key") } },
        { "client-p384", { ssl_pkcs12 = pkcs12.path("client-p384", { password = "" }),
                           ssl_key_password = "" } },
        { "client-ed25519", files_of("client-ed25519") },
        { "client-chained", text_of("client-chained") },
        { "client-other-ca", files_of("client-other-ca") },
        { "turns", { ssl_cert_path = turn, ssl_key_path = turn } },
    }
    local described, prints = {}, { nobody = { "" }, turns = {} }
    for i, name in ipairs(TURNS) do
        prints.turns[i] = fingerprint(name)
    end
    for i, item in ipairs(list) do
        local name, options = unpack(item)
        prints[name] = prints[name] or { fingerprint(name) }
        described[i] = { name = name, options = options }
    end
    return described, prints
end


local function trusts()
    local both = { certs.read("ca.crt"), certs.path("other-ca.crt") }
    return {
        { options = { ssl_trusted_certificate = certs.path("ca.crt") }, issuers = { ca = true } },
        { options = { ssl_trusted_certificate = certs.read("other-ca.crt") },
          issuers = { ["other-ca"] = true } },
        { options = { ssl_trusted_certificate = both },
          issuers = { ca = true, ["other-ca"] = true } },
        { options = { ssl_trusted_certificate = both, ssl_pinned_pubkey = pins.of("origin") },
          issuers = { ca = true, ["other-ca"] = true }, pinned = "origin" },
        { options = { ssl_verify = false }, issuers = {}, is_blind = true },
        { options = { ssl_trusted_certificate = certs.read("other-ca.crt"), ssl_verify = false },
          issuers = {}, is_blind = true },
        { options = { ssl_verify = false, ssl_pinned_pubkey = pins.of("server") },
          issuers = {}, is_blind = true, pinned = "server" },
    }
end


local function proxies_of(squids)
    local list = { { name = "none", source = "127.0.0.1" } }
    for i, proxy in ipairs(squids) do
        local network = "127.0." .. i .. "."
        for _, item in ipairs({ { "open", 1 }, { "tls", 2 }, { "guarded", 3, "alice:secret@" },
                                { "guarded", 4, "bob:p%3As%2540s%20w%2Fo%40rd@" },
                                { "guarded", 9, "mallory:wrong@" } }) do
            local port, last, credentials = unpack(item)
            list[#list + 1] = {
                name = i .. "." .. last, source = network .. last,
                uri = proxy:uri(port, credentials),
                is_tls = port == "tls", refuses = last == 9,
            }
        end
    end
    return list
end


local function places_at(ports)
    local list = { { name = "plain", port = ports.plain } }
    for _, place in ipairs(PLACES) do
        local keys, issuers = {}, {}
        for i, name in ipairs(NAMES) do
            keys[name], issuers[name] = place.certs[i], ISSUERS[place.certs[i]]
        end
        list[#list + 1] = { name = place.name, port = ports[place.name], is_tls = true,
                            keys = keys, issuers = issuers, is_old = place.listen == "" }
    end
    return list
end


--- Starts the proxies, and makes all that goes for every run.
---@return Isolation
function _M.start()
    local self = setmetatable({ folder = fs.temp_dir("isolation") }, World)
    self.proxies = { squid.start({ network = "127.0.1" }), squid.start({ network = "127.0.2" }) }
    local list, prints = identities(self.folder)
    local turns = {}
    for i, name in ipairs(TURNS) do
        turns[i] = certs.read(name .. ".crt") .. certs.read(name .. ".key")
    end
    self.description = {
        identities = list, fingerprints = prints, trusts = trusts(),
        proxies = proxies_of(self.proxies), turns = turns, turn_path = self.folder .. "/turn.pem",
        -- A name that no certificate has, and an address, are at hand as well.
        names = { { host = "localhost" }, { host = "origin.test" }, { host = "www.origin.test" },
                  { host = "localhost", server_name = "origin.test" },
                  { host = "origin.test", server_name = "localhost" },
                  { host = "127.0.0.1", server_name = "www.origin.test" },
                  { host = "127.0.0.1" }, { host = "localhost", server_name = "else.where" } },
    }
    return self
end


local ROLES = [[
    lua_shared_dict roles 64k;
    server {
        listen 127.0.0.1:${port.work} reuseport;
        location = /run/content {
            content_by_lua_block { require("spec.support.inside").run(ngx.var.arg_chunk) }
        }
    }
]]

local CHUNK = [[
    local calls, cjson = require("spec.support.isolation_calls"), require("cjson")
    local fs = require("spec.support.fs")
    local worker = ngx.worker.id()
    if not ngx.shared.roles:add(worker, true) then
        return
    end
    fs.write("${dir}/taken-" .. worker, "")
    local plan = cjson.decode(fs.read("${plan}"))
    print(cjson.encode(calls.run(plan, worker)))
]]


-- One chunk in each of two workers: which of them gets a connection is left to the kernel.
local function begin_in_each(gateway, plan_path)
    local runs = {}
    for worker = 0, 1 do
        process.wait_until("worker " .. worker .. " has something to do", function()
            if fs.exists(gateway.dir .. "/taken-" .. worker) then
                return true
            end
            local run = gateway:begin(CHUNK, { vars = { plan = plan_path } })
            process.wait_until("the chunk has found its worker", function()
                if run:is_done() then
                    run:wait()
                    return true
                end
                for other = 0, 1 do
                    if not runs[other] and fs.exists(gateway.dir .. "/taken-" .. other) then
                        runs[other] = run
                        return true
                    end
                end
            end)
        end)
    end
    return runs
end


---@class IsolationRun
---@field name string in each request
---@field versions (number|string)[] values of http_version, chosen from at random
---@field seed integer
---@field visits integer by each of the workers

-- Runs what `plan` says in both workers.
local function figures_of(gateway, plan_path)
    local runs, figures = begin_in_each(gateway, plan_path), {}
    for worker = 0, 1 do
        figures[worker + 1] = cjson.decode(runs[worker]:wait(120))
    end
    return figures
end


--- Makes calls in two workers at the same time.
---@param plan IsolationRun
---@return table[] figures of each worker, see isolation_calls.lua
---@return string log what the upstream saw, a line a request; see callers.parse
function World:run(plan)
    fs.write(self.description.turn_path, self.description.turns[1])
    local upstream = nginx.start({
        http = upstream_text(), log_level = "warn",
        files = { ["clients.crt"] = certs.read("ca.crt") .. certs.read("other-ca.crt") },
    })
    local gateway = nginx.gateway({ workers = 2, http = ROLES, log_level = "warn" })
    gateway.port = gateway.ports.work

    self.description.places = places_at(upstream.ports)
    local path = self.folder .. "/plan.json"
    fs.write(path, cjson.encode({ world = self.description, plan = plan }))
    local ok, figures = pcall(figures_of, gateway, path)
    if not ok then
        gateway.process:kill()
        upstream.process:kill()
        error(figures, 0)
    end
    gateway:stop()
    -- What a request came to is in the log when it has ended, and by then all have.
    upstream:stop()
    return figures, fs.read(upstream.dir .. "/seen.log")
end


--- Checks a line of the log; see callers.check.
---@param line string
---@return string? mistake
---@return table<string, string> seen
function World:check(line)
    local seen = callers.parse(line)
    return callers.check(self.description, seen), seen
end


function World:stop()
    for _, proxy in ipairs(self.proxies) do
        proxy:stop()
    end
end


return _M
