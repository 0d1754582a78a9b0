local fs = require("spec.support.fs")
local lfs = require("lfs")
local nginx = require("spec.support.nginx")
local openssl_server = require("spec.support.openssl_server")
local plain = require("spec.support.plain")
local process = require("spec.support.process")
local secure = require("spec.support.secure")

-- What the two versions of TLS have secrets for: label and bytes of the secret. SHA-384 is the hash
-- of the cipher suite that both sides prefer.
local LABELS = {
    ["1.2"] = { CLIENT_RANDOM = 48 },
    ["1.3"] = { CLIENT_HANDSHAKE_TRAFFIC_SECRET = 48, SERVER_HANDSHAKE_TRAFFIC_SECRET = 48,
                CLIENT_TRAFFIC_SECRET_0 = 48, SERVER_TRAFFIC_SECRET_0 = 48, EXPORTER_SECRET = 48 },
}

local PRELUDE = [[
    local http, secure = require("resty.mtls.http"), require("spec.support.secure")
    local function visit(options)
        options = options or {}
        options.ssl_trusted_certificate = ${pem.ca.crt}
        print((secure.code({ port = ${up} }, options)))
    end
]]

local ALLOW = "assert(http.set_defaults({ allow_keylog = true }))\n"

local WARNING = "SSLKEYLOGFILE"

local is_root = lfs.attributes("/proc/self", "uid") == 0


teardown(secure.finish)


local function new_path()
    return fs.temp_dir("keylog") .. "/keys"
end


-- Runs a chunk in plain luajit.
local function run(code, path, port)
    local result = plain.run(PRELUDE .. code, {
        vars = { up = port or secure.server("server").port }, env = { SSLKEYLOGFILE = path },
    })
    assert.equals(0, result.code, result.stderr)
    return result
end


local function count(text, plain_text)
    local found, at = 0, 1
    while true do
        local first, last = text:find(plain_text, at, true)
        if not first then
            return found
        end
        found, at = found + 1, last + 1
    end
end


-- The lines of a key log, each of which has to have the right form: label, random of the client's
-- hello, secret. OpenSSL's begins with a comment.
local function lines_of(path)
    local lines, labels = {}, {}
    local text = assert(fs.read(path)):gsub("^#[^\n]*\n", "")
    assert.matches("\n$", text)
    for line in text:gmatch("([^\n]*)\n") do
        local label, random, secret = line:match("^([A-Z_0-9]+) (%x+) (%x+)$")
        assert.is_truthy(label, line)
        assert.equals(64, #random)
        lines[line:lower()] = true
        labels[label] = #secret / 2
    end
    return lines, labels
end


describe("SSLKEYLOGFILE with allow_keylog", function()
    for version, labels in pairs(LABELS) do
        it("gets the secrets that the server has too, on TLS " .. version, function()
            local path, of_server = new_path(), new_path()
            local server = openssl_server.start({ version = version,
                                                  args = { "-keylogfile", of_server } })
            assert.equals("200\n", run(ALLOW .. "visit()", path, server.port).stdout)
            server:stop()
            local lines, found = lines_of(path)
            assert.same(labels, found)
            local expected = lines_of(of_server)
            for line in pairs(lines) do
                assert.is_true(expected[line], line .. "\nis none of the server's:\n"
                               .. fs.read(of_server))
            end
        end)
    end

    it("is a file for its owner's eyes", function()
        local path = new_path()
        run(ALLOW .. "visit()", path)
        assert.equals("rw-------", lfs.attributes(path, "permissions"))
        assert.equals("file", lfs.attributes(path, "mode"))
    end)

    it("gets every connection, and of every process", function()
        local path = new_path()
        run(ALLOW .. "visit() visit()", path)
        local before = fs.read(path)
        local randoms, number = {}, 0
        for random in before:gmatch(" (%x+) ") do
            number = number + (randoms[random] and 0 or 1)
            randoms[random] = true
        end
        assert.equals(2, number)
        run(ALLOW .. "visit()", path)
        local after = fs.read(path)
        assert.equals(before, after:sub(1, #before))
        assert.is_true(#after > #before)
    end)

    it("is warned of once per process", function()
        local path = new_path()
        local stderr = run(ALLOW .. "visit() " .. ALLOW .. "visit() visit({ ssl_max_version = "
                           .. "'TLSv1.2' })", path).stderr
        assert.equals(1, count(stderr, WARNING), stderr)
        assert.equals(1, count(stderr, "\n"), stderr)
    end)

    it("that cannot be written keeps nobody from connecting", function()
        local path = fs.temp_dir("keylog") .. "/nowhere/keys"
        local result = run(ALLOW .. "visit()", path)
        assert.equals("200\n", result.stdout)
        assert.matches(path, result.stderr, 1, true)
    end)

    it("is a file for its owner's eyes also if others could read it before", function()
        local path = new_path()
        fs.write(path, "# kept\n")
        process.check({ "chmod", "644", path })
        run(ALLOW .. "visit()", path)
        assert.equals("rw-------", lfs.attributes(path, "permissions"))
        assert.matches("^# kept\n[A-Z_]+ %x+ %x+\n", fs.read(path))
    end)

    -- In a folder that everybody may write into, somebody else chooses what stands there.
    for what, make in pairs({
        -- Root can make one; other users are not even allowed to write into it.
        ["a file of somebody else"] = function(path)
            fs.write(path, "")
            process.run({ "chown", "65534", path })
            process.run({ "chmod", is_root and "666" or "400", path })
        end,
        ["a link to a file"] = function(path)
            fs.write(path .. ".target", "")
            fs.link(path .. ".target", path)
        end,
        ["a link to nothing"] = function(path) fs.link(path .. ".target", path) end,
        ["a pipe"] = function(path) process.check({ "mkfifo", path }) end,
        ["a folder"] = function(path) assert(lfs.mkdir(path)) end,
    }) do
        it("is not " .. what .. ", which is an error in the log", function()
            local path = new_path()
            make(path)
            local mode = lfs.symlinkattributes(path, "mode")
            local result = run(ALLOW .. "visit() visit()", path)
            assert.equals("200\n200\n", result.stdout)
            assert.equals(1, count(result.stderr, path), result.stderr)
            assert.not_matches("are written to", result.stderr, 1, true)
            assert.equals(mode, lfs.symlinkattributes(path, "mode"))
            for _, file in ipairs({ path, path .. ".target" }) do
                local is_file = lfs.attributes(file, "mode") == "file"
                assert.equals(0, is_file and lfs.attributes(file, "size") or 0)
            end
        end)
    end

    it("gets nothing more once it is forbidden again", function()
        local path = new_path()
        local code = ALLOW .. [[
            local function size()
                return #io.open(os.getenv("SSLKEYLOGFILE"), "rb"):read("*a")
            end
            visit()
            local before = size()
            assert(http.set_defaults({ allow_keylog = false }))
            visit()
            print(before > 0, size() == before)
        ]]
        assert.equals("200\n200\ntrue\ttrue\n", run(code, path).stdout)
    end)
end)


describe("no secret is written", function()
    local function assert_nothing(code, path, expected)
        local result = run(code, path)
        assert.equals(expected or "200\n", result.stdout)
        assert.equals("", result.stderr)
        if path then
            assert.is_false(fs.exists(path))
        end
    end

    it("without allow_keylog", function()
        assert_nothing("visit()", new_path())
        assert_nothing("assert(http.set_defaults({ allow_keylog = false })) visit()", new_path())
    end)

    it("without SSLKEYLOGFILE", function()
        assert_nothing(ALLOW .. "visit()", false)
        -- Nor with an empty one, which names no file.
        assert.equals("200\n", run(ALLOW .. "visit()", "").stdout)
    end)

    it("because an option of a call is called allow_keylog", function()
        assert_nothing("visit({ allow_keylog = true })", new_path())
        assert_nothing([[
            local res = assert(http.new():request_uri("https://localhost:${up}/", {
                allow_keylog = true, ssl_trusted_certificate = ${pem.ca.crt},
            }))
            print(res.status)
        ]], new_path())
    end)

    it("because allow_keylog is something else than true", function()
        for _, value in ipairs({ "1", "'yes'", "'true'", "{}" }) do
            assert_nothing(([[
                local ok, err, details = http.set_defaults({ allow_keylog = %s })
                print(ok, err:find("allow_keylog", 1, true) ~= nil, details.code)
                visit()
            ]]):format(value), new_path(), "nil\ttrue\tbad_argument\n200\n")
        end
    end)
end)


describe("in nginx, the key log", function()
    local function run_inside(opts)
        opts.init = opts.init or [[
            assert(require("resty.mtls.http").set_defaults({ allow_keylog = true }))
        ]]
        local gateway = nginx.gateway(opts)
        local vars = { vars = { up = secure.server("server").port } }
        for _ = 1, 2 do
            assert.equals("200\n", gateway:run(PRELUDE .. "visit()", vars))
        end
        gateway:stop()
        return gateway:error_log()
    end

    it("is written with `env SSLKEYLOGFILE;`, and warned of once", function()
        local path = new_path()
        local log = run_inside({ env = { SSLKEYLOGFILE = path } })
        local _, labels = lines_of(path)
        assert.same(LABELS["1.3"], labels)
        assert.equals("rw-------", lfs.attributes(path, "permissions"))
        assert.equals(1, count(log, WARNING), log)
        assert.matches("%[warn%] [^\n]*" .. WARNING, log)
    end)

    it("is not written without that directive", function()
        local path = new_path()
        local log = run_inside({ hidden_env = { SSLKEYLOGFILE = path } })
        assert.is_false(fs.exists(path))
        assert.equals(0, count(log, WARNING), log)
    end)

    it("is not written without allow_keylog", function()
        local path = new_path()
        local log = run_inside({ env = { SSLKEYLOGFILE = path }, init = "return" })
        assert.is_false(fs.exists(path))
        assert.equals(0, count(log, WARNING), log)
    end)
end)
