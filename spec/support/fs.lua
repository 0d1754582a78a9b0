--- Files and folders that vanish at the end of the run (MTLS_KEEP_TEMP=1 keeps them for a look).
local cleanup = require("spec.support.cleanup")
local ffi = require("ffi")
local lfs = require("lfs")

local _M = {}

ffi.cdef [[
    char *mkdtemp(char *template);
    char *realpath(const char *path, char *resolved);
    int chmod(const char *path, unsigned int mode);
]]

local root
local count = 0

--- Absolute path of the checkout. Specs are started from there.
---@type string
_M.repo = lfs.currentdir()


local function make_root()
    local parent = os.getenv("TMPDIR") or "/tmp"
    local template = parent .. "/mtls-XXXXXX"
    local buffer = ffi.new("char[?]", #template + 1, template)
    assert(ffi.C.mkdtemp(buffer) ~= nil, "cannot make a folder below " .. parent)
    root = ffi.string(buffer)
    -- nginx workers may run as another user, and read what lies below.
    ffi.C.chmod(root, tonumber("755", 8))
end


--- Makes a new empty folder.
---@param name string what it is for, becomes part of its name
---@return string path absolute, short enough for unix sockets below it
function _M.temp_dir(name)
    if not root then
        make_root()
    end
    count = count + 1
    local path = string.format("%s/%s-%d", root, name, count)
    assert(lfs.mkdir(path))
    ffi.C.chmod(path, tonumber("755", 8))
    return path
end


--- Lets every user write into a folder.
---@param path string
function _M.open_to_all(path)
    ffi.C.chmod(path, tonumber("777", 8))
end


---@param path string
---@return string? content
---@return string? err
function _M.read(path)
    local file, err = io.open(path, "rb")
    if not file then
        return nil, err
    end
    local content = file:read("*a")
    file:close()
    return content
end


--- Writes a file so that a reader sees all of it or nothing.
---@param path string
---@param content string
function _M.write(path, content)
    local temporary = path .. ".new"
    local file = assert(io.open(temporary, "wb"))
    assert(file:write(content))
    assert(file:close())
    assert(os.rename(temporary, path))
end


--- Writes into a file that is there: a reader may see a part of it.
---@param path string
---@param content string
function _M.overwrite(path, content)
    local file = assert(io.open(path, "wb"))
    assert(file:write(content))
    assert(file:close())
end


--- Makes a symbolic link. One that is there is replaced in one step.
---@param target string
---@param path string
function _M.link(target, path)
    local temporary = path .. ".new"
    assert(lfs.link(target, temporary, true))
    assert(os.rename(temporary, path))
end


---@param path string
---@return boolean
function _M.exists(path)
    return lfs.attributes(path, "mode") ~= nil
end


-- Registered when loaded, before any process is: they are stopped first, then their files go.
cleanup.at_exit(function()
    if root and not os.getenv("MTLS_KEEP_TEMP") then
        os.execute("rm -rf '" .. root .. "'")
    end
end)

return _M
