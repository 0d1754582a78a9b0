-- No private key, in whatever form it was given, is in a core dump of a process that uses it.
--
-- The kernel's own core dump is looked into where it is put into a file; where it is handed to a
-- program, the memory that the kernel would have written.
local certs = require("spec.support.certs")
local cjson = require("cjson")
local fs = require("spec.support.fs")
local key_parts = require("spec.support.key_parts")
local memory = require("spec.support.process_memory")
local nginx = require("spec.support.nginx")
local pkcs12 = require("spec.support.certs.pkcs12")
local secretive = require("spec.support.secretive")

-- With the form of a PEM file that came before PKCS#8, if there is one.
local KEYS = {
    ["client-a"] = ".sec1.key", ["client-p384"] = ".sec1.key", ["client-p521"] = ".sec1.key",
    ["client-rsa"] = ".pkcs1.key", ["client-ed25519"] = false,
}

local server


-- A request as each of them, on connections that stay open.
local CALLS = [[
    local call, cjson = require("spec.support.call"), require("cjson")
    local fs, http = require("spec.support.fs"), require("resty.mtls.http")
    local texts = {}
    for _, options in ipairs(cjson.decode(fs.read("${options}"))) do
        for _, name in ipairs({ "ssl_key", "ssl_key_password" }) do
            if options[name] then
                options[name] = secret(options[name])
                texts[#texts + 1] = options[name]
            end
        end
        local outcome = call.make(options)
        assert(outcome.status == 200, outcome.err)
    end
    for _, text in ipairs(texts) do
        forget(text)
    end
    local stats = http.stats()
]]


-- Every key in every form. Texts and passphrases are named by the files that have them.
local function identities()
    local passphrase = fs.temp_dir("passphrase") .. "/passphrase"
    fs.write(passphrase, certs.PASSPHRASE)
    local list = {}
    local function add(options)
        options.scheme, options.host, options.port = "https", "localhost", server.port
        options.ssl_trusted_certificate = certs.path("ca.crt")
        options.request, options.keep = { path = "/echo" }, true
        list[#list + 1] = options
    end
    for name, traditional in pairs(KEYS) do
        local crt, key = certs.path(name .. ".crt"), certs.path(name .. ".key")
        add({ ssl_cert_path = crt, ssl_key_path = key })
        add({ ssl_cert_path = crt, ssl_key = key })
        add({ ssl_cert_path = crt, ssl_key_path = certs.path(name .. ".encrypted.key"),
              ssl_key_password = passphrase })
        add({ ssl_pkcs12 = pkcs12.path(name), ssl_key_password = passphrase })
        if traditional then
            add({ ssl_cert_path = crt, ssl_key_path = certs.path(name .. traditional) })
        end
    end
    local path = fs.temp_dir("options") .. "/options.json"
    fs.write(path, cjson.encode(list))
    return path, #list
end


-- What is looked for, by key.
local function wanted()
    local pieces = { passphrase = { { what = "passphrase", bytes = certs.PASSPHRASE } } }
    for name, traditional in pairs(KEYS) do
        local its = key_parts.of(name)
        for _, form in ipairs({ ".key", traditional or nil }) do
            for _, piece in ipairs(key_parts.text_of(name .. form)) do
                its[#its + 1] = piece
            end
        end
        pieces[name] = its
    end
    return pieces
end


-- That all of it is in the memory of a process, and nothing in its core dump.
local function assert_in_memory_alone(whole, dump, is_real, where)
    local looked_for, seen = 0, 0
    for name, pieces in pairs(wanted()) do
        local _, count = key_parts.find(pieces, whole)
        assert.is_true(count > 0, "nothing of " .. name .. " is in memory")
        assert.same({}, (key_parts.find(pieces, dump)), name)
        looked_for, seen = looked_for + #pieces, seen + count
    end
    print(("core dumps: %s, %.1f MiB %s: %d pieces of secrets looked for, %d times in memory, none "
        .. "in the dump"):format(where, #dump / 2 ^ 20,
        is_real and "written by the kernel" or "that the kernel would write", looked_for, seen))
end


setup(function() server = nginx.upstream() end)

teardown(function() server:stop() end)


describe("a core dump", function()
    it("of plain luajit has no key of its identities", function()
        local options, count = identities()
        local its = secretive.start(CALLS .. [[
            step("called", stats.keys_held, stats.connections_idle)
        ]], { options = options })
        assert.same({ tostring(count), tostring(count) }, { its:at("called") })
        local whole = memory.read(its.child.pid)
        local dump, is_real = memory.dump(its.child, nil, its.cwd)
        assert_in_memory_alone(whole, dump, is_real, "plain luajit")
    end)

    it("of an nginx worker has no key of its identities", function()
        local gateway = nginx.gateway({
            main = "worker_rlimit_core 1g;\nworking_directory ${dir};",
        })
        local options, count = identities()
        local output = gateway:run(secretive.HELPERS .. CALLS .. [[
            print(stats.keys_held, stats.connections_idle)
            print(ngx.worker.pid())
        ]], { vars = { options = options, steps = gateway.dir } })
        local keys, idle, pid = output:match("^(%d+)\t(%d+)\n(%d+)\n")
        assert.same({ count, count }, { tonumber(keys), tonumber(idle) })
        pid = tonumber(pid)
        local whole = memory.read(pid)
        local dump, is_real = memory.dump(nil, pid, gateway.dir)
        assert_in_memory_alone(whole, dump, is_real, "nginx worker")
        gateway:stop()
    end)

    it("has what Lua itself keeps, so that keys as files are safer than text", function()
        local its = secretive.start([[
            local kept = secret("${key}")
            step("read", #kept)
        ]], { key = certs.path("client-a.key") })
        its:at("read")
        local pieces = key_parts.text_of("client-a.key")
        local _, count = key_parts.find(pieces, (memory.dump(its.child, nil, its.cwd)))
        assert.is_true(count >= #pieces)
    end)

    it("is searched for every piece", function()
        local all = {}
        for _, pieces in pairs(wanted()) do
            for _, piece in ipairs(pieces) do
                all[#all + 1] = piece
            end
        end
        local bytes = {}
        for i, piece in ipairs(all) do
            bytes[i] = piece.bytes
        end
        local path = fs.temp_dir("pieces") .. "/pieces"
        fs.write(path, table.concat(bytes, "\n"))
        local its = secretive.start([[
            local kept = secret("${path}")
            step("read", #kept)
        ]], { path = path })
        its:at("read")
        local dump = memory.dump(its.child, nil, its.cwd)
        for _, piece in ipairs(all) do
            local _, count = key_parts.find({ piece }, dump)
            assert.is_true(count > 0, piece.what)
        end
    end)
end)
