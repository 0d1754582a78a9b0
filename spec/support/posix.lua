--- The few system calls that process.lua needs.
local ffi = require("ffi")

local _M = {}

ffi.cdef [[
    extern char **environ;
    int posix_spawnp(int *pid, const char *file, const void *actions, const void *attributes,
                     char *const argv[], char *const envp[]);
    int posix_spawn_file_actions_init(void *actions);
    int posix_spawn_file_actions_destroy(void *actions);
    int posix_spawn_file_actions_addopen(void *actions, int fd, const char *path, int flags,
                                         unsigned int mode);
    int posix_spawn_file_actions_adddup2(void *actions, int fd, int new_fd);
    int posix_spawn_file_actions_addchdir_np(void *actions, const char *path);
    int posix_spawn_file_actions_addclosefrom_np(void *actions, int fd);
    int posix_spawnattr_init(void *attributes);
    int posix_spawnattr_destroy(void *attributes);
    int posix_spawnattr_setflags(void *attributes, short flags);
    int posix_spawnattr_setpgroup(void *attributes, int group);
    int waitpid(int pid, int *status, int options);
    int kill(int pid, int signal);
    char *strerror(int number);
]]

local C = ffi.C
local O_RDONLY, O_WRONLY_CREATE_APPEND = 0, 0x1 + 0x40 + 0x400
local SPAWN_SETPGROUP = 0x02
local WNOHANG = 1
local SIGNALS = { HUP = 1, INT = 2, QUIT = 3, ABRT = 6, KILL = 9, USR1 = 10, USR2 = 12, TERM = 15,
                  CONT = 18, STOP = 19, WINCH = 28 }


local function string_array(strings)
    local array = ffi.new("char *[?]", #strings + 1)
    for i, text in ipairs(strings) do
        array[i - 1] = ffi.cast("char *", text)
    end
    return array
end


local function environment(changes)
    local list = {}
    local i = 0
    while C.environ[i] ~= nil do
        local entry = ffi.string(C.environ[i])
        if changes[entry:match("^[^=]*")] == nil then
            list[#list + 1] = entry
        end
        i = i + 1
    end
    for name, value in pairs(changes) do
        if value then
            list[#list + 1] = name .. "=" .. value
        end
    end
    return list
end


--- Starts a program as the leader of a new process group, with no open files but the standard ones.
---@param argv string[]
---@param opts { stdin: string, stdout: string, stderr: string?, cwd: string?, env: table? } paths
---@return integer pid
function _M.spawn(argv, opts)
    -- Both types are opaque; on every libc they are smaller than this.
    local actions, attributes = ffi.new("long[256]"), ffi.new("long[256]")
    C.posix_spawn_file_actions_init(actions)
    C.posix_spawn_file_actions_addopen(actions, 0, opts.stdin, O_RDONLY, 0)
    C.posix_spawn_file_actions_addopen(actions, 1, opts.stdout, O_WRONLY_CREATE_APPEND, 420)
    if opts.stderr then
        C.posix_spawn_file_actions_addopen(actions, 2, opts.stderr, O_WRONLY_CREATE_APPEND, 420)
    else
        C.posix_spawn_file_actions_adddup2(actions, 1, 2)
    end
    -- A child that kept a socket of the spec would keep its peer from seeing the end of it.
    C.posix_spawn_file_actions_addclosefrom_np(actions, 3)
    if opts.cwd then
        C.posix_spawn_file_actions_addchdir_np(actions, opts.cwd)
    end
    C.posix_spawnattr_init(attributes)
    C.posix_spawnattr_setflags(attributes, SPAWN_SETPGROUP)
    C.posix_spawnattr_setpgroup(attributes, 0)

    local env = environment(opts.env or {})
    local pid = ffi.new("int[1]")
    local code = C.posix_spawnp(pid, argv[1], actions, attributes, string_array(argv),
                                string_array(env))
    C.posix_spawn_file_actions_destroy(actions)
    C.posix_spawnattr_destroy(attributes)
    if code ~= 0 then
        error("cannot start " .. argv[1] .. ": " .. ffi.string(C.strerror(code)))
    end
    return pid[0]
end


--- Exit code of a child that has ended, 128 + n after signal n; nil while it runs.
---@param pid integer
---@return integer?
function _M.reap(pid)
    local status = ffi.new("int[1]")
    if C.waitpid(pid, status, WNOHANG) == 0 then
        return nil
    end
    local signal = status[0] % 128
    if signal ~= 0 then
        return 128 + signal
    end
    return math.floor(status[0] / 256) % 256
end


---@param pid integer a negative one means the whole process group
---@param signal string name without SIG
function _M.kill(pid, signal)
    local number = assert(SIGNALS[signal], "unknown signal")
    C.kill(pid, number)
end


return _M
