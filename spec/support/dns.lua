--- Name servers on loopback addresses, and programs that ask them and nobody else: Debian's
--- dnsmasq, and a stand-in (dns_process.lua) for what no well-behaved server answers.
---
---     local names = dns.dnsmasq({ ["origin.test"] = { "127.0.0.1" } })
---     local gateway = nginx.gateway({ through = dns.asking(names) })
---
--- The C library reads /etc/resolv.conf, so that these programs get one of their own, in a mount
--- namespace; and name servers are at port 53. Both take root.
local fs = require("spec.support.fs")
local plain = require("spec.support.plain")
local process = require("spec.support.process")
local socket = require("socket")

local _M = {}

-- Not where systemd-resolved is, nor any other server that somebody may have.
local DNSMASQ, STAND_IN = "127.53.0.1", "127.53.0.2"

---@class NameServer
---@field address string
---@field dir string
---@field process Process
local NameServer = {}
NameServer.__index = NameServer


--- Why there can be no name servers here; nil if there can.
---@return string?
function _M.missing()
    if process.run({ "unshare", "--mount", "true" }).code ~= 0 then
        return "mount namespaces are not to be had: run as root"
    elseif process.run({ "sh", "-c", "command -v dnsmasq" }).code ~= 0 then
        return "there is no dnsmasq"
    elseif fs.exists("/var/run/nscd/socket") then
        return "nscd answers for the C library"
    end
    for _, address in ipairs({ DNSMASQ, STAND_IN }) do
        local udp = socket.udp4()
        local ok, err = udp:setsockname(address, 53)
        udp:close()
        if not ok then
            return "port 53 of " .. address .. ": " .. err
        end
    end
end


local function has_answer(address)
    local udp = socket.udp4()
    udp:settimeout(0.05)
    udp:setpeername(address, 53)
    -- A question for the A record of "up.test" (RFC 1035, 4.1).
    udp:send("\0\1\1\0\0\1\0\0\0\0\0\0\2up\4test\0\0\1\0\1")
    local answer = udp:receive()
    udp:close()
    return answer ~= nil
end


local function start(self, argv, opts)
    opts.log = self.dir .. "/output"
    self.process = process.start(argv, opts)
    process.wait_until("a name server answers", function()
        if not self.process:is_running() then
            error("no name server:\n" .. self.process:output(), 0)
        end
        return has_answer(self.address)
    end)
end


--- Starts dnsmasq. It knows these names, and of ".test" no others.
---@param hosts table<string, string[]> addresses by name
---@return NameServer
function _M.dnsmasq(hosts)
    local self = setmetatable({ address = DNSMASQ, dir = fs.temp_dir("dnsmasq") }, NameServer)
    self:write(hosts)
    self:restart()
    return self
end


--- Starts the stand-in; what it does is said in dns_process.lua.
---@return NameServer
function _M.stand_in()
    local self = setmetatable({ address = STAND_IN, dir = fs.temp_dir("dns") }, NameServer)
    start(self, { "luajit", "spec/support/dns_process.lua", STAND_IN, self.dir },
          { cwd = fs.repo, env = plain.env() })
    return self
end


--- What a program is started through, so that it asks this server and nobody else. It waits for an
--- answer for longer than any spec takes, unless told otherwise.
---@param server NameServer
---@param seconds integer? 30 unless given, which is the most that there is
---@return string[] argv to be followed by the program's
function _M.asking(server, seconds)
    local dir = fs.temp_dir("resolv")
    fs.write(dir .. "/resolv.conf", ("nameserver %s\noptions timeout:%d attempts:1\n"):format(
        server.address, seconds or 30))
    fs.write(dir .. "/nsswitch.conf", "hosts: files dns\n")
    return { "unshare", "--mount", "sh", "-c", ([[
        mount --bind %s/resolv.conf /etc/resolv.conf &&
        mount --bind %s/nsswitch.conf /etc/nsswitch.conf &&
        exec "$@"
    ]]):format(dir, dir), "sh" }
end


function NameServer:write(hosts)
    local lines = {}
    for name, addresses in pairs(hosts) do
        for _, address in ipairs(addresses) do
            lines[#lines + 1] = address .. " " .. name .. "\n"
        end
    end
    fs.write(self.dir .. "/hosts", table.concat(lines))
end


--- Changes what dnsmasq knows, and returns when it knows it.
---@param hosts table<string, string[]>
function NameServer:change(hosts)
    self:write(hosts)
    local function reads()
        return select(2, self.process:output():gsub("read [^\n]*/hosts", ""))
    end
    local before = reads()
    self.process:signal("HUP")
    process.wait_until("dnsmasq has read its hosts", function() return reads() > before end)
end


--- Starts dnsmasq again.
function NameServer:restart()
    start(self, { "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
                  "--no-hosts", "--addn-hosts=" .. self.dir .. "/hosts", "--local=/test/",
                  "--listen-address=" .. self.address, "--bind-interfaces", "--user=root",
                  "--pid-file=", "--log-facility=-" }, {})
end


--- How often the stand-in was asked for the IPv4 address of a name.
---@param name string
---@return integer
function NameServer:asked(name)
    local log = fs.read(self.dir .. "/asked") or ""
    return select(2, ("\n" .. log):gsub("\n" .. name:gsub("%p", "%%%0") .. " 1%f[\n]", ""))
end


function NameServer:stop()
    self.process:kill()
end


return _M
