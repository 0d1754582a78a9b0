--- A stand-in for a server: plays scripted bytes, delays and closes, and records what it received.
---
--- For what no well-behaved server does. It runs in a luajit of its own (peer_process.lua), any
--- number of connections at a time.
---
---     local server = peer.start{ script = {
---         peer.receive_until("\r\n\r\n"),
---         peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"),
---         peer.sleep(0.2),
---         peer.reset(),
---     } }
---     -- connect to server.port …
---     assert.matches("^GET / ", server:received(1))
---     server:stop()
local cjson = require("cjson.safe")
local fs = require("spec.support.fs")
local plain = require("spec.support.plain")
local ports = require("spec.support.ports")
local process = require("spec.support.process")

local _M = {}

---@class PeerStep
---@field action string
---@field value string|number|nil

---@class PeerOptions
---@field script PeerStep[]? what every connection goes through; closed at the end
---@field scripts PeerStep[][]? one for each connection in turn, the last one for all that follow
---@field socket boolean? listen on a unix socket instead of a port
---@field tls PeerTls? speak TLS; the steps then begin after the handshake

---@class PeerTls
---@field cert string? identity of the PKI, "server" unless given
---@field client_ca string? demand a client certificate of this CA, refuse others with an alert
---@field optional boolean? ask for the client certificate and do without one
---@field version "1.2"|"1.3"|nil allow this one alone

---@class Peer
---@field port integer?
---@field path string? of the unix socket
---@field dir string
---@field process Process
local Peer = {}
Peer.__index = Peer


--- Starts the peer and returns when it accepts connections.
---@param opts PeerOptions
---@return Peer
function _M.start(opts)
    local dir = fs.temp_dir("peer")
    local self = setmetatable({ dir = dir }, Peer)
    if opts.socket then
        self.path = dir .. "/socket"
    else
        self.port = ports.free()
    end

    fs.write(dir .. "/plan.json", cjson.encode({
        port = self.port, path = self.path, dir = dir,
        scripts = opts.scripts or { opts.script or {} },
        tls = opts.tls and _M.tls_context(opts.tls),
    }))
    self.process = process.start(
        { "luajit", fs.repo .. "/spec/support/peer_process.lua", dir .. "/plan.json" },
        { env = plain.env(), cwd = fs.repo, log = dir .. "/log" })
    process.wait_until("the peer listens", function()
        if not self.process:is_running() then
            error("the peer did not start:\n" .. self.process:output(), 0)
        end
        return fs.exists(dir .. "/ready")
    end)
    return self
end


--- Sends bytes.
---@param bytes string
function _M.send(bytes)
    return { action = "send", value = bytes }
end


--- Sends bytes one at a time.
---@param bytes string
---@param pause number seconds before each
function _M.drip(bytes, pause)
    return { action = "drip", value = bytes, pause = pause }
end


--- Receives until these bytes have come, in everything since the last receive step.
---@param bytes string plain text
function _M.receive_until(bytes)
    return { action = "receive_until", value = bytes }
end


--- Receives that many bytes.
---@param count integer
function _M.receive(count)
    return { action = "receive", value = count }
end


--- Receives until the other side closes.
function _M.receive_to_end()
    return { action = "receive_to_end" }
end


---@param seconds number
function _M.sleep(seconds)
    return { action = "sleep", value = seconds }
end


--- Says "waits" in the events and does nothing until the spec calls `server:resume()`. Counted for
--- the whole peer: the second call ends the second pause.
function _M.pause()
    return { action = "pause" }
end


--- Says a word in the events.
---@param word string
function _M.tell(word)
    return { action = "tell", value = word }
end


--- Closes in an orderly way; with TLS, with close_notify.
function _M.close()
    return { action = "close" }
end


--- Ends the connection below TLS: the other side sees an end of file without close_notify.
function _M.cut()
    return { action = "cut" }
end


--- Ends sending and goes on reading (without TLS only).
function _M.shutdown_send()
    return { action = "shutdown_send" }
end


--- Closes with a TCP reset.
function _M.reset()
    return { action = "reset" }
end


--- Does nothing until the other side or the spec ends.
function _M.hang()
    return { action = "sleep", value = 3600 }
end


---@param tls PeerTls
---@return table context of luasec
function _M.tls_context(tls)
    local certs = require("spec.support.certs")
    local identity = tls.cert or "server"
    local context = {
        mode = "server", protocol = "any",
        certificate = certs.path(identity .. ".crt"), key = certs.path(identity .. ".key"),
        options = { "no_sslv2", "no_sslv3", "no_tlsv1", "no_tlsv1_1" },
    }
    if tls.version then
        local other = tls.version == "1.3" and "no_tlsv1_2" or "no_tlsv1_3"
        context.options[#context.options + 1] = other
    end
    if tls.client_ca then
        context.cafile = certs.path(tls.client_ca .. ".crt")
        context.verify = { "peer", not tls.optional and "fail_if_no_peer_cert" or nil }
    end
    return context
end


--- How many connections have been accepted.
---@return integer
function Peer:connections()
    local count = 0
    while fs.exists(self.dir .. "/received-" .. (count + 1)) do
        count = count + 1
    end
    return count
end


--- Everything that came in on a connection so far (the plain text, with TLS).
---@param number integer? which connection, counted from 1; the first unless given
---@return string? bytes nil if there was no such connection
function Peer:received(number)
    return (fs.read(self.dir .. "/received-" .. (number or 1)))
end


--- What happened on all connections, a line for each event: "1 accepted", "1 handshake failed: …".
---@return string
function Peer:events()
    return self.process:output()
end


--- Waits until a line of the events matches.
---@param pattern string
---@param timeout number? seconds
function Peer:wait_for_event(pattern, timeout)
    return process.wait_until("the peer says " .. pattern, function()
        return self:events():match(pattern)
    end, timeout)
end


--- Ends the next pause, also one that has not begun.
function Peer:resume()
    self.resumed = (self.resumed or 0) + 1
    fs.write(self.dir .. "/resume-" .. self.resumed, "")
end


function Peer:stop()
    self.process:stop()
end


return _M
