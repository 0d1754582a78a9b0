--- A stand-in for a name server (see dns.lua), which answers by the first word of a name:
---
---     hang…      not, till the file "released" is there, and then as all others
---     slow       in a while
---     silent     never
---     lost…      to the first question for each kind of address not, as if it had been lost
---     nx, servfail, refused   with that code
---     empty      that the name has no address
---     garbage    with what is no message
---     cut        with a part of a message
---     otherid    with the answer to another question's number
---     othername  with the answer to another name's question
---     truncated  that all is to be had by TCP, where nobody listens
---     loop       that it is another name of itself
---     dead       with addresses where nobody listens
---     partly     with those and a good one, which the C library puts behind them (RFC 6724)
---
--- and 127.0.0.1 to all else. Arguments: its address, its folder.

local socket = require("socket")

local address, dir = ...

local A, AAAA, CNAME = 1, 28, 5
local CODES = { servfail = 2, nx = 3, refused = 5 }
-- Nobody listens there.
local DEAD = { "127.0.9.1", "127.0.9.2" }
local SLOW = 0.3


local function number(value)
    return string.char(math.floor(value / 256) % 256, value % 256)
end


-- The name in a question, and where the question ends (RFC 1035, 4.1.2).
local function question_of(message)
    local labels, at = {}, 13
    while message:byte(at) ~= 0 do
        local length = message:byte(at)
        labels[#labels + 1] = message:sub(at + 1, at + length)
        at = at + 1 + length
    end
    local kind = message:byte(at + 1) * 256 + message:byte(at + 2)
    return table.concat(labels, "."), kind, message:sub(13, at + 4)
end


-- 12 is where the question's name is.
local function record(kind, data)
    return "\192\12" .. number(kind) .. "\0\1" .. "\0\0\0\0" .. number(#data) .. data
end


local function packed(ip)
    return (ip:gsub("(%d+)%.?", function(byte) return string.char(byte) end))
end


-- A whole answer. The flags are those of a response to a recursive query, with this code.
local function answer(message, question, records, code, more_flags)
    return message:sub(1, 2) .. string.char(129 + (more_flags or 0), 128 + (code or 0)) .. "\0\1"
        .. number(#records) .. "\0\0\0\0" .. question .. table.concat(records)
end


local function records_for(kind, ips)
    local records = {}
    for i = 1, kind == A and #ips or 0 do
        records[i] = record(A, packed(ips[i]))
    end
    return records
end


local ANSWERS = {}


function ANSWERS.silent()
    return nil
end


function ANSWERS.empty(message, question)
    return answer(message, question, {})
end


function ANSWERS.garbage(message)
    return message:sub(1, 2) .. ("\255"):rep(40)
end


function ANSWERS.cut(message, question, kind)
    return answer(message, question, records_for(kind, { "127.0.0.1" })):sub(1, 12 + #question + 5)
end


function ANSWERS.otherid(message, question, kind)
    local other = number((message:byte(1) * 256 + message:byte(2) + 1) % 65536)
    return answer(other, question, records_for(kind, { "127.0.0.1" }))
end


function ANSWERS.othername(message, question, kind)
    local other = question:gsub("othername", "samelong!")
    return answer(message, other, records_for(kind, { "127.0.0.1" }))
end


function ANSWERS.truncated(message, question)
    return answer(message, question, {}, 0, 2)
end


function ANSWERS.loop(message, question)
    return answer(message, question, { record(CNAME, "\192\12") })
end


function ANSWERS.dead(message, question, kind)
    return answer(message, question, records_for(kind, DEAD))
end


function ANSWERS.partly(message, question, kind)
    local records = records_for(kind, { DEAD[1], "127.99.0.1", DEAD[2] })
    if kind == AAAA then
        records[1] = record(AAAA, ("\0"):rep(15) .. "\1")
    end
    return answer(message, question, records)
end


local function answer_to(message)
    local name, kind, question = question_of(message)
    local word = name:match("^%a+")
    if CODES[word] then
        return answer(message, question, {}, CODES[word])
    end
    local make = ANSWERS[word]
    if make then
        return make(message, question, kind)
    end
    return answer(message, question, records_for(kind, { "127.0.0.1" }))
end


local function is_released()
    local file = io.open(dir .. "/released")
    return file and file:close()
end


local udp = assert(socket.udp4())
assert(udp:setsockname(address, 53))
udp:settimeout(0.01)
local log = assert(io.open(dir .. "/asked", "a"))
log:setvbuf("no")
-- What is answered later: message, whom, and when if that is known.
local later = {}
local asked = {}

while true do
    local message, ip, port = udp:receivefrom()
    if message then
        local name, kind = question_of(message)
        local word = name:match("^%a+")
        local line = name .. " " .. kind .. "\n"
        log:write(line)
        if word ~= "lost" or asked[line] then
            later[#later + 1] = {
                message = message, ip = ip, port = port, is_held = word == "hang",
                at = word == "slow" and socket.gettime() + SLOW or 0,
            }
        end
        asked[line] = true
    end
    local still = {}
    for _, item in ipairs(later) do
        if item.is_held and not is_released() or item.at > socket.gettime() then
            still[#still + 1] = item
        else
            local reply = answer_to(item.message)
            if reply then
                udp:sendto(reply, item.ip, item.port)
            end
        end
    end
    later = still
end
