--- A server that breaks off, stalls and floods, at any byte of what it sends, also within TLS.
---
--- peer.lua does the same above TLS; this one has the records of TLS in its hands. The program
--- itself is in spec/fault-server.
---
---     local server = fault_server.start({ tls = "1.3" }, {
---         fault_server.handshake, fault_server.head, fault_server.send("HTTP/1.1 200 OK\r\n"),
---         fault_server.record(21, "\2\80"),
---     })
---     -- connect to server.port …
---     server:stop()
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

---@class FaultServer
---@field port integer
---@field process Process
local FaultServer = {}
FaultServer.__index = FaultServer

--- For `count`: until the client ends.
_M.FOREVER = "forever"


local function hex(bytes)
    return (bytes:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end))
end


--- The handshake of TLS.
_M.handshake = "handshake"

--- Receives up to an empty line.
_M.head = "head"

--- Receives until the client ends.
_M.drain = "drain"

--- Ends sending, in TLS with close_notify, and goes on.
_M.half_close = "half-close"

--- Does nothing more, ever.
_M.stall = "stall"

--- Ends without close_notify. Whatever a script does not end otherwise is closed with one.
_M.cut = "cut"

--- Closes with a TCP reset.
_M.reset = "reset"


---@param bytes string
function _M.send(bytes)
    return "send " .. hex(bytes)
end


--- Sends the same bytes many times.
---@param count integer|"forever"
---@param bytes string
function _M.send_often(count, bytes)
    return "repeat " .. count .. " " .. hex(bytes)
end


--- Sends each byte by itself.
---@param pause number seconds before each
---@param bytes string
function _M.drip(pause, bytes)
    return "drip " .. pause .. " " .. hex(bytes)
end


--- Sends an encrypted record.
---@param kind integer its type (RFC 8446, B.1)
---@param bytes string
---@param count integer|"forever"|nil once unless given
function _M.record(kind, bytes, count)
    return "record " .. (count or 1) .. " " .. kind .. " " .. hex(bytes)
end


--- Sends bytes below TLS.
---@param bytes string
function _M.wire(bytes)
    return "wire " .. hex(bytes)
end


--- Receives that many bytes.
---@param count integer
function _M.take(count)
    return "take " .. count
end


--- Ends behind a byte of what is sent from now on, below TLS: behind `start` of them on the first
--- connection, and `step` more on each that follows.
---@param how "close"|"reset"|"stall"
---@param start integer
---@param step integer
function _M.limit(how, start, step)
    return "limit " .. start .. " " .. step .. " " .. how
end


--- Says a word in the events.
---@param word string
function _M.say(word)
    return "say " .. word
end


--- Inverts a byte, counted as for `limit`.
---@param start integer
---@param step integer
function _M.flip(start, step)
    return "flip " .. start .. " " .. step
end


--- Sends every byte by itself from now on, below TLS.
---@param pause number seconds
function _M.pace(pause)
    return "pace " .. pause
end


---@class FaultServerOptions
---@field tls "1.2"|"1.3"|nil speak this version
---@field client_ca string? demand a client certificate of this CA

local function path_of_program()
    local path = fs.repo .. "/build/fault-server"
    if not fs.exists(path) then
        error("build/fault-server is missing: make fault-server", 0)
    end
    return path
end


--- Starts a server and returns when it accepts connections.
---@param opts FaultServerOptions
---@param ... string[] the steps of each connection in turn, the last ones for all that follow
---@return FaultServer
function _M.start(opts, ...)
    local lines = {}
    if opts.tls then
        lines[1] = table.concat({ "tls", opts.tls, certs.path("server.crt"),
                                  certs.path("server.key"),
                                  opts.client_ca and certs.path(opts.client_ca .. ".crt") }, " ")
    end
    for _, steps in ipairs({ ... }) do
        lines[#lines + 1] = "connection"
        lines[#lines + 1] = table.concat(steps, "\n")
    end
    local dir = fs.temp_dir("faults")
    fs.write(dir .. "/script", table.concat(lines, "\n") .. "\n")

    local started = process.start({ path_of_program(), dir .. "/script" }, { log = dir .. "/log" })
    local self = setmetatable({ process = started }, FaultServer)
    self.port = process.wait_until("the server of faults listens", function()
        if not started:is_running() then
            error("the server of faults did not start:\n" .. started:output(), 0)
        end
        return tonumber(started:output():match("listens on (%d+)\n"))
    end)
    return self
end


--- What happened, a line for each event: "1 accepted", "1 handshake failed: …".
---@return string
function FaultServer:events()
    return self.process:output()
end


--- How many connections have been accepted.
---@return integer
function FaultServer:connections()
    return (select(2, self:events():gsub("%d+ accepted\n", "")))
end


function FaultServer:stop()
    self.process:stop("KILL")
end


return _M
