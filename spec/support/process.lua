--- Child processes of a spec: started with a captured log, waited for with a bound, never left
--- over.
local cleanup = require("spec.support.cleanup")
local fs = require("spec.support.fs")
local groups = require("spec.support.groups")
local posix = require("spec.support.posix")
local system = require("system")

local _M = {}

local POLL_INTERVAL = 0.004

--- Started and not yet known to have ended, by pid.
local running = {}

---@class Process
---@field pid integer also the id of the process group that the child leads
---@field log string path of the file with everything it wrote
---@field stderr string? path of the file with what it wrote to stderr, if that is another one
---@field exit_code integer? set once it has ended; 128 + n after signal n
---@field command string for messages
local Process = {}
Process.__index = Process


---@class ProcessOptions
---@field env table<string, string|false>? added to the environment; false removes
---@field cwd string?
---@field stdin string? text; nothing to read unless given
---@field log string? file for stdout, and for stderr too unless `stderr` is given
---@field stderr string? file for stderr

--- Starts a program and returns at once.
---@param argv string[]
---@param opts ProcessOptions?
---@return Process
function _M.start(argv, opts)
    opts = opts or {}
    local log = opts.log or fs.temp_dir("process") .. "/log"
    local stdin = "/dev/null"
    if opts.stdin then
        stdin = fs.temp_dir("stdin") .. "/text"
        fs.write(stdin, opts.stdin)
    end

    -- The kernel ends the child if this process dies without a chance to clean up.
    local command = { "setpriv", "--pdeathsig", "TERM", "--", unpack(argv) }
    local pid = posix.spawn(command, {
        env = opts.env, cwd = opts.cwd, stdin = stdin, stdout = log, stderr = opts.stderr,
    })

    local process = setmetatable({
        pid = pid, log = log, stderr = opts.stderr,
        command = table.concat(argv, " ", 1, math.min(#argv, 4)),
    }, Process)
    running[pid] = process
    return process
end


---@class Result
---@field code integer exit code; 128 + n after signal n
---@field stdout string
---@field stderr string

--- Runs a program to its end.
---@param argv string[]
---@param opts (ProcessOptions | { timeout: number? })? timeout in seconds, 30 unless given
---@return Result
function _M.run(argv, opts)
    return _M.begin(argv, opts):result(opts and opts.timeout)
end


--- Starts a program for its `:result()`.
---@param argv string[]
---@param opts ProcessOptions?
---@return Process
function _M.begin(argv, opts)
    opts = opts or {}
    local dir = fs.temp_dir("run")
    return _M.start(argv, {
        env = opts.env, cwd = opts.cwd, stdin = opts.stdin,
        log = dir .. "/stdout", stderr = dir .. "/stderr",
    })
end


--- Like run, but anything but exit code 0 is an error.
---@param argv string[]
---@param opts (ProcessOptions | { timeout: number? })?
---@return string stdout
function _M.check(argv, opts)
    local result = _M.run(argv, opts)
    if result.code ~= 0 then
        error(string.format("%s: exit code %d\n%s%s", table.concat(argv, " "), result.code,
                            result.stdout, result.stderr), 2)
    end
    return result.stdout
end


--- Polls `condition` until it gives something true.
---@generic T
---@param what string for the error message: "nginx is ready"
---@param condition fun(): T?
---@param timeout number? seconds, 10 unless given
---@return T
function _M.wait_until(what, condition, timeout)
    timeout = timeout or 10
    local deadline = system.monotime() + timeout
    while true do
        local value = condition()
        if value then
            return value
        end
        if system.monotime() > deadline then
            error(string.format("waited %g s in vain until %s", timeout, what), 2)
        end
        system.sleep(POLL_INTERVAL)
    end
end


--- Ends everything that is still running. Happens by itself at the end of the run.
function _M.kill_all()
    for _, process in pairs(running) do
        process:kill()
    end
end


---@return boolean
function Process:is_running()
    if not self.exit_code then
        self.exit_code = posix.reap(self.pid)
        if self.exit_code then
            running[self.pid] = nil
        end
    end
    return self.exit_code == nil
end


--- Waits for the end.
---@param timeout number? seconds, 10 unless given
---@return integer? exit_code nil if it is still running
function Process:wait(timeout)
    local deadline = system.monotime() + (timeout or 10)
    while self:is_running() do
        if system.monotime() > deadline then
            return nil
        end
        system.sleep(POLL_INTERVAL)
    end
    return self.exit_code
end


---@param name "TERM"|"QUIT"|"HUP"|"INT"|"KILL"|"USR1"|"STOP"|"CONT"
function Process:signal(name)
    if self:is_running() then
        posix.kill(self.pid, name)
    end
end


--- Waits for the end of what was begun.
---@param timeout number? seconds, 30 unless given
---@return Result
function Process:result(timeout)
    local code = self:wait(timeout or 30)
    local result = { code = code, stdout = fs.read(self.log), stderr = fs.read(self.stderr) }
    if not code then
        self:kill()
        error(self.command .. " did not end in time:\n" .. result.stdout .. result.stderr, 2)
    end
    return result
end


--- Asks it to end, and makes sure that it did, with all its children.
---@param signal string? TERM unless given
---@param timeout number? seconds, 10 unless given
---@return integer exit_code
function Process:stop(signal, timeout)
    self:signal(signal or "TERM")
    local code = self:wait(timeout)
    local left = groups.members(self.pid)
    if code and #left == 0 then
        return code
    end

    self:kill()
    error(string.format("%s: %s\n%s", self.command,
                        code and "left processes " .. table.concat(left, ", ")
                        or "still running after signal " .. (signal or "TERM"),
                        self:output()), 2)
end


--- Ends it and all its children the hard way.
function Process:kill()
    posix.kill(-self.pid, "KILL")
    self:wait()
    running[self.pid] = nil
end


--- Everything written so far.
---@return string
function Process:output()
    return fs.read(self.log) or ""
end


cleanup.at_exit(_M.kill_all)

return _M
