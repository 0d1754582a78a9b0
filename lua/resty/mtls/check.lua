--- The command `resty-mtls-check`: looks at a server from the command line. See docs/diagnose.md.

local arguments = require("resty.mtls.check.arguments")
local http = require("resty.mtls.http")
local json = require("resty.mtls.check.json")
local text = require("resty.mtls.check.text")
local diagnose = require("resty.mtls.diagnose")

local find = string.find


local _M = {}


_M.WELL, _M.FAULT, _M.USAGE, _M.UNREACHABLE = 0, 1, 2, 3

-- The native library's words for a file without a key.
local NO_KEY = "no PEM private key found"
local ASSUMED_KEY = "the key was looked for in the file of --cert: give --key; "

local unreachable_stages = { resolve = true, connect = true, proxy = true }


local function exit_code(report)
    if report.ok then
        return _M.WELL
    elseif unreachable_stages[report.stage] then
        return _M.UNREACHABLE
    elseif report.code == "bad_argument" then
        return _M.USAGE
    end
    return _M.FAULT
end


-- Where the key was looked for is no option that was given.
local function explain_assumed_key(report)
    if report.code ~= "bad_key_pem" or not find(report.error, NO_KEY, 1, true) then
        return
    end
    report.hint = ASSUMED_KEY .. report.hint
    for i = 1, #report.findings do
        local finding = report.findings[i]
        if finding.code == report.code then
            finding.hint = ASSUMED_KEY .. finding.hint
        end
    end
end


--- Runs the command.
---@param argv string[]
---@param streams {out: file*, err: file*}? stdout and stderr unless given
---@return 0|1|2|3 code to exit with
function _M.run(argv, streams)
    local out = streams and streams.out or io.stdout
    local err = streams and streams.err or io.stderr
    local wanted, message = arguments.parse(argv, os.getenv)
    if not wanted then
        err:write("resty-mtls-check: ", message, "\n",
            "`resty-mtls-check --help` tells more.\n")
        return _M.USAGE
    elseif wanted.action == "help" then
        out:write(arguments.HELP)
        return _M.WELL
    elseif wanted.action == "version" then
        out:write("resty-mtls-check ", http._VERSION, "\n")
        return _M.WELL
    end

    local report = diagnose.run(http, wanted.options)
    if wanted.assumes_key then
        explain_assumed_key(report)
    end
    out:write(wanted.json and json.encode(report) .. "\n" or text.of(report))
    return exit_code(report)
end


return _M
