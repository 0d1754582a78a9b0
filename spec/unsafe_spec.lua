-- That nothing else is unsafe is the compiler's to see (Cargo.toml, `unsafe_code`): `make lint` and
-- the build. This is about the table of what is, for readers.
local fs = require("spec.support.fs")
local process = require("spec.support.process")


local function sources()
    local files = {}
    local found = process.check({ "find", "src", "-name", "*.rs" })
    for file in found:gmatch("[^\n]+") do
        files[file] = fs.read(fs.repo .. "/" .. file):gsub("//[^\n]*", "")
    end
    return files
end


-- Files with an unsafe block, function or implementation.
local function unsafe_sources()
    local files = {}
    for file, text in pairs(sources()) do
        for word in text:gmatch("%f[%w_]unsafe%s+([%w{]+)") do
            if word == "{" or word == "fn" or word == "impl" or word == "extern" then
                files[#files + 1] = file
                break
            end
        end
    end
    table.sort(files)
    return files
end


local function section()
    local page = fs.read(fs.repo .. "/docs/design.md")
    return page:match("\n## Unsafe code\n(.-)\n## ")
end


describe("the sources with unsafe code", function()
    it("are those that docs/design.md names, with a reason for each", function()
        local named = {}
        for file, reason in section():gmatch("\n| `(src/[^`]+)` | ([^|]*) |") do
            assert.matches("%w", reason, file)
            named[#named + 1] = file
        end
        table.sort(named)
        assert.same(unsafe_sources(), named)
    end)

    it("are no others, which the compiler is told to see to", function()
        local manifest = fs.read(fs.repo .. "/Cargo.toml")
        local rust = manifest:match("%[lints%.rust%]\n(.-)\n%[")
        local clippy = manifest:match("%[lints%.clippy%]\n(.-)\n%[")
        assert.matches('unsafe_code = "deny"', rust, 1, true)
        assert.matches('unsafe_op_in_unsafe_fn = "deny"', rust, 1, true)
        assert.matches('undocumented_unsafe_blocks = "deny"', clippy, 1, true)
        assert.matches('missing_safety_doc = "deny"', clippy, 1, true)
        -- Nobody lifts it for all of the crate, or without a reason.
        local lifted, declared = 0, 0
        for _, text in pairs(sources()) do
            lifted = lifted + select(2, text:gsub("%f[%w_]unsafe_code%f[^%w_]", ""))
                + select(2, text:gsub("undocumented_unsafe_blocks", ""))
            declared = declared + select(2, text:gsub(
                '\n%s*#%[expect%(%s*unsafe_code,%s*reason = "[^"]+"%s*%)%]\n[%w() ]*mod ', ""))
        end
        assert.same({ #unsafe_sources(), #unsafe_sources() }, { lifted, declared })
    end)
end)
