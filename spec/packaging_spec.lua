local fs = require("spec.support.fs")
local lfs = require("lfs")
local plain = require("spec.support.plain")
local process = require("spec.support.process")

local ROCKSPEC = "rockspec/lua-resty-mtls-scm-1.rockspec"

-- Requires the module with nothing else in the path, and tells where both parts came from.
local PROBE = [[
    local http = require("resty.mtls.http")
    assert(http.new())
    print((assert(package.searchpath("resty.mtls.http", package.path))))
    print((assert(package.searchpath("resty.mtls.native", package.cpath))))
]]


local function probe(lua_path, lua_cpath)
    local chunk = fs.temp_dir("probe") .. "/probe.lua"
    fs.write(chunk, PROBE)
    return process.run({ "luajit", chunk }, {
        cwd = "/", env = { LUA_PATH = lua_path, LUA_CPATH = lua_cpath },
    })
end


-- The command finds the library that it was installed with, wherever it is started.
local function assert_runs(command)
    local result = process.run({ command, "--version" }, { cwd = "/" })
    assert.equals(0, result.code, result.stderr)
    assert.matches("^resty%-mtls%-check %d", result.stdout)
end


local function inodes(dir, found)
    found = found or {}
    for name in lfs.dir(dir) do
        local path = dir .. "/" .. name
        local attributes = lfs.attributes(path)
        if attributes.mode == "file" then
            found[path] = attributes.ino
        elseif name ~= "." and name ~= ".." then
            inodes(path, found)
        end
    end
    return found
end


-- Paths below a folder, sorted.
local function paths_below(dir)
    local paths = {}
    for path in pairs(inodes(dir)) do
        paths[#paths + 1] = path:sub(#dir + 2)
    end
    table.sort(paths)
    return paths
end


describe("make install", function()
    local dir

    local function install(...)
        return process.run({ "make", "install", "LUA_LIB_DIR=" .. dir, ... }, { cwd = fs.repo })
    end

    before_each(function()
        dir = fs.temp_dir("lualib")
    end)

    it("puts what a gateway needs into one folder", function()
        local result = install()
        assert.equals(0, result.code, result.stderr)
        result = probe(dir .. "/?.lua", dir .. "/?.so")
        assert.equals(0, result.code, result.stderr)
        assert.equals(dir .. "/resty/mtls/http.lua\n" .. dir .. "/resty/mtls/native.so\n",
                      result.stdout)
    end)

    it("puts the plugins where APISIX looks for them", function()
        assert.equals(0, install().code)
        local pattern = dir .. "/?.lua"
        for _, plugin in ipairs({ "mtls-forward-auth", "mtls-callout", "mtls-callout.queue" }) do
            assert.is_string(package.searchpath("apisix.plugins." .. plugin, pattern))
        end
        assert.is_string(package.searchpath("resty.mtls.apisix", pattern))
        -- In front of APISIX's own folder, it must not hide anything of APISIX.
        for name in lfs.dir(dir .. "/apisix") do
            assert.is_true(name == "plugins" or name:find("^%.+$") ~= nil, name)
        end
    end)

    it("may be repeated, and replaces files instead of writing into them", function()
        install()
        local before = inodes(dir)
        assert.equals(0, install().code)
        local after = inodes(dir)
        for path, inode in pairs(before) do
            assert.is_number(after[path])
            assert.not_equals(inode, after[path], path .. " was written in place")
        end
        for path in pairs(after) do
            assert.is_number(before[path], path .. " was left over")
        end
    end)

    it("puts the command beside it, or where it is told", function()
        local bin = fs.temp_dir("bin")
        assert.equals(0, install().code)
        assert.equals(0, install("BIN_DIR=" .. bin).code)
        assert_runs(dir .. "/bin/resty-mtls-check")
        assert_runs(bin .. "/resty-mtls-check")
    end)

    it("copes with a folder of any name", function()
        dir = fs.temp_dir("lualib") .. "/it's a | & \\ folder"
        assert.equals(0, install().code)
        assert_runs(dir .. "/bin/resty-mtls-check")
    end)

    it("asks for the folder if it is not told", function()
        local result = process.run({ "make", "install" }, { cwd = fs.repo })
        assert.not_equals(0, result.code)
        assert.matches("LUA_LIB_DIR=", result.stderr)
    end)
end)


describe("the drop-in targets", function()
    -- What a target installs.
    local function installed(target)
        local dir = fs.temp_dir("dropin")
        local result = process.run({ "make", target, "LUA_LIB_DIR=" .. dir }, { cwd = fs.repo })
        assert.equals(0, result.code, result.stderr)
        return paths_below(dir)
    end

    it("install what they say, and neither installs what the other does", function()
        assert.same({ "resty/http.lua", "resty/http_connect.lua", "resty/http_headers.lua" },
                    installed("install-dropin"))
        assert.same({ "resty/ngx_http_ffi_client.lua" }, installed("install-dropin-ffi"))
    end)

    it("ask for the folder if they are not told", function()
        for _, target in ipairs({ "install-dropin", "install-dropin-ffi" }) do
            local result = process.run({ "make", target }, { cwd = fs.repo })
            assert.not_equals(0, result.code)
            assert.matches("LUA_LIB_DIR=", result.stderr)
        end
    end)
end)


describe("make uninstall", function()
    local dir

    local function make(...)
        local result = process.run({ "make", "LUA_LIB_DIR=" .. dir, ... }, { cwd = fs.repo })
        assert.equals(0, result.code, result.stdout .. result.stderr)
    end

    before_each(function()
        dir = fs.temp_dir("lualib")
    end)

    it("removes what the others install, and folders that are left empty", function()
        make("install", "install-dropin", "install-dropin-ffi")
        make("uninstall")
        assert.same({}, paths_below(dir))
        for name in lfs.dir(dir) do
            assert.matches("^%.+$", name)
        end
        make("uninstall")
    end)

    it("removes what went elsewhere, and files of older versions", function()
        local native, bin = fs.temp_dir("clib"), fs.temp_dir("bin")
        make("install", "LUA_CLIB_DIR=" .. native, "BIN_DIR=" .. bin)
        fs.write(dir .. "/resty/mtls/of_an_older_version.lua", "")
        make("uninstall", "LUA_CLIB_DIR=" .. native, "BIN_DIR=" .. bin)
        for _, folder in ipairs({ dir, native, bin }) do
            assert.same({}, paths_below(folder))
        end
    end)

    it("leaves what is somebody else's", function()
        make("install", "install-dropin")
        fs.write(dir .. "/resty/http.lua", "-- another library's")
        fs.write(dir .. "/resty/lock.lua", "")
        fs.write(dir .. "/apisix/plugins/of-my-own.lua", "")
        make("uninstall")
        assert.same({ "apisix/plugins/of-my-own.lua", "resty/http.lua", "resty/lock.lua" },
                    paths_below(dir))
    end)

    it("asks for the folder if it is not told", function()
        local result = process.run({ "make", "uninstall" }, { cwd = fs.repo })
        assert.not_equals(0, result.code)
        assert.matches("LUA_LIB_DIR=", result.stderr)
    end)
end)


describe("make dist", function()
    local archive, name, root, sum

    -- What was printed: the sum, and the name of the archive.
    local function dist()
        return process.check({ "make", "--no-print-directory", "dist" }, { cwd = fs.repo })
            :match("^(%x+)  (%S+)\n$")
    end

    setup(function()
        local file
        sum, file = dist()
        name = file:gsub("%.tar%.gz$", "")
        archive = fs.repo .. "/build/" .. file
        local dir = fs.temp_dir("unpacked")
        process.check({ "tar", "-xzf", archive, "-C", dir })
        root = dir .. "/" .. name
    end)

    it("names the version and what it is for", function()
        local version = require("resty.mtls.http")._VERSION
        assert.equals("lua-resty-mtls-" .. version .. "-x86_64-linux", name)
    end)

    it("has the sums of all files", function()
        local _, listed = fs.read(root .. "/SHA256SUMS"):gsub("\n", "")
        assert.equals(#paths_below(root) - 1, listed)
        process.check({ "sha256sum", "--quiet", "--strict", "-c", "SHA256SUMS" }, { cwd = root })
    end)

    it("has a library without symbols, and leaves them in the one that was built", function()
        local path = "/build/lualib/resty/mtls/native.so"
        local built, stripped = fs.read(fs.repo .. path), fs.read(root .. path)
        assert.is_true(#stripped < #built)
        assert.is_nil((stripped:find("\0.symtab\0", 1, true)))
        assert.is_truthy((built:find("\0.symtab\0", 1, true)))
    end)

    it("installs without building", function()
        local dir = fs.temp_dir("lualib")
        process.check({ "make", "install", "install-dropin", "install-dropin-ffi",
                        "LUA_LIB_DIR=" .. dir }, { cwd = root })
        local result = probe(dir .. "/?.lua", dir .. "/?.so")
        assert.equals(0, result.code, result.stderr)
        assert_runs(dir .. "/bin/resty-mtls-check")
        assert.is_true(fs.exists(dir .. "/apisix/plugins/mtls-forward-auth.lua"))
        assert.is_true(fs.exists(dir .. "/resty/http.lua"))
        process.check({ "make", "uninstall", "LUA_LIB_DIR=" .. dir }, { cwd = root })
        assert.same({}, paths_below(dir))
    end)

    it("has the license and the pages, and nothing that was left lying about", function()
        for _, path in ipairs({ "LICENSE", "README.md", "README.zh-CN.md", "CHANGELOG.md",
                                "docs/apisix.md", "docs/zh/plugins/mtls-callout.md",
                                "SECURITY.md", "docs/threat-model.md",
                                "examples/apisix/Dockerfile" }) do
            assert.is_true(fs.exists(root .. "/" .. path), path)
        end
        for _, path in ipairs(paths_below(root)) do
            assert.is_nil(path:find("^examples/%w+/run/"), path)
        end
    end)

    it("is the same each time", function()
        assert.equals(sum, (dist()))
        assert.equals(sum, process.check({ "sha256sum", archive }):match("^%x+"))
    end)

    it("asks for a build if there is none", function()
        local result = process.run({ "tools/dist", "build/none.so" }, { cwd = fs.repo })
        assert.equals(1, result.code)
        assert.matches("make build", result.stderr, 1, true)
    end)
end)


describe("luarocks make", function()
    it("builds and installs into a tree that require works from", function()
        local tree = fs.temp_dir("rocks")
        -- The library has been built by now, so that cargo has nothing left to do.
        local result = process.run(
            { "luarocks", "--lua-version", "5.1", "--tree", tree, "make", ROCKSPEC },
            { cwd = fs.repo, timeout = 300 })
        assert.equals(0, result.code, result.stdout .. result.stderr)

        result = probe(tree .. "/share/lua/5.1/?.lua", tree .. "/lib/lua/5.1/?.so")
        assert.equals(0, result.code, result.stderr)
        assert.matches(tree, result.stdout, 1, true)
        assert_runs(tree .. "/bin/resty-mtls-check")
    end)
end)


describe("a library of another version than the Lua files", function()
    it("is refused by require, with what to do", function()
        local output = plain.run_lua([[
            package.loaded["resty.mtls.native"] = { interface = 0, version = "0.0.0" }
            print(pcall(require, "resty.mtls.http"))
        ]])
        assert.matches("false.*native.so and the Lua files are of different versions: run make",
                       output)
    end)
end)
