--- What a private key looks like in memory: its text, and its secret numbers in either byte order,
--- which is what all that is made of the text has.
local certs = require("spec.support.certs")
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

-- Shorter pieces would be found by chance, longer ones miss what was cut at an odd place.
local PIECE = 16

-- Of `openssl pkey -text`: the key of EC and Ed25519, and all numbers of RSA that are secret.
local SECRET = {
    priv = true, privateExponent = true, prime1 = true, prime2 = true,
    exponent1 = true, exponent2 = true, coefficient = true,
}


local function from_hex(hex)
    return (hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end


local function sha512(bytes)
    local path = fs.temp_dir("sha512") .. "/bytes"
    fs.write(path, bytes)
    return process.check({ "openssl", "dgst", "-sha512", "-binary", path })
end


-- Its secret numbers, big-endian.
local function numbers(path)
    local found, name = {}, nil
    for line in process.check({ "openssl", "pkey", "-in", path, "-text", "-noout" })
        :gmatch("[^\n]+") do
        local hex = line:match("^%s+([%x:]+)$")
        if not hex then
            name = line:match("^(%w+):")
        elseif SECRET[name] then
            found[name] = (found[name] or "") .. from_hex((hex:gsub(":", "")))
        end
    end
    return found
end


local function add_pieces(pieces, what, bytes)
    -- openssl puts a zero in front of what would look negative.
    bytes = bytes:gsub("^%z+", "")
    for at = 1, #bytes - PIECE + 1, PIECE do
        pieces[#pieces + 1] = { what = what, bytes = bytes:sub(at, at + PIECE - 1) }
    end
end


---@class Piece
---@field what string
---@field bytes string

--- Its secret numbers.
---@param name string identity
---@return Piece[]
function _M.of(name)
    local pieces = {}
    for number, bytes in pairs(numbers(certs.path(name .. ".key"))) do
        add_pieces(pieces, name .. ": " .. number, bytes)
        add_pieces(pieces, name .. ": " .. number .. ", little-endian", bytes:reverse())
        if name:find("ed25519", 1, true) then
            -- What it signs with is made of the key (RFC 8032, 5.1.5). Bits of both ends are set.
            local hash = sha512(bytes)
            add_pieces(pieces, name .. ": hashed", hash:sub(2, 31))
            add_pieces(pieces, name .. ": hashed, second half", hash:sub(33))
        end
    end
    return pieces
end


--- The lines of a PEM file.
---@param name string as for `certs.path`
---@return Piece[]
function _M.text_of(name)
    local pieces = {}
    for line in certs.read(name):gmatch("[%w+/=]+") do
        -- Words of its first and last line are in others as well, and lines begin with the names of
        -- algorithms.
        if #line > PIECE then
            pieces[#pieces + 1] = { what = name, bytes = line:sub(-PIECE) }
        end
    end
    return pieces
end


--- How often pieces are in a text, by what they are.
---@param pieces Piece[]
---@param text string
---@return table<string, integer> counts without those that are not in it
---@return integer total
function _M.find(pieces, text)
    local counts, total = {}, 0
    for _, piece in ipairs(pieces) do
        local at = text:find(piece.bytes, 1, true)
        while at do
            counts[piece.what] = (counts[piece.what] or 0) + 1
            total = total + 1
            at = text:find(piece.bytes, at + 1, true)
        end
    end
    return counts, total
end


return _M
