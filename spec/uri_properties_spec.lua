--- What holds for every URI, with random ones. A failure names the seed: MTLS_SEED=… repeats it.
local http = require("resty.mtls.http")

local SEED = tonumber(os.getenv("MTLS_SEED")) or os.time()
local ROUNDS = 20000


local function pick(list)
    return list[math.random(#list)]
end


local function some(alphabet, longest)
    local parts = {}
    for i = 1, math.random(0, longest) do
        parts[i] = pick(alphabet)
    end
    return table.concat(parts)
end


local NAMES = { "a", "b-c", "example", "xn--bcher-kva", "0", "_", "%41", "A", ".", ".." }
local HOSTS = { "[::1]", "[2001:db8::1]", "127.0.0.1", "localhost" }
local PATHS = { "/", "a", ".", "..", "%2f", ":", "@", "//", "[", "]", ";", "=", "&", "é", "\\" }
-- What a URI may be made of, and what it may not.
local ANY = { "http", "https", "HTTP", ":", "/", "//", "?", "#", "@", "[", "]", "[::1]", "%", ".",
              "a", "example.com", "80", "0", "65536", "\0", "\r\n", " ", "\t", "\127", "\255", "\\",
              "user", "secret", '"', "<", "^", "`", "{", "|", "}",
              "-1", "1e3", "0x50" }


local function well_formed()
    local scheme, host = pick({ "http", "https", "HTTP", "HtTpS" }), pick(HOSTS)
    if math.random(2) == 1 then
        host = pick(NAMES) .. some(NAMES, 3)
    end
    local port = math.random(3) == 1 and math.random(1, 65535) or nil
    local path = math.random(4) > 1 and "/" .. some(PATHS, 6) or ""
    local query = math.random(3) == 1 and some(PATHS, 6) or nil
    return {
        uri = scheme .. "://" .. host .. (port and ":" .. port or "") .. path
            .. (query and "?" .. query or ""),
        scheme = scheme:lower(), host = host, path = path == "" and "/" or path, query = query,
        port = port or (scheme:lower() == "https" and 443 or 80),
    }
end


local function each(rounds, check)
    math.randomseed(SEED)
    for round = 1, rounds do
        local ok, err = pcall(check)
        if not ok then
            error(("seed %d, round %d: %s"):format(SEED, round, tostring(err)), 0)
        end
    end
end


local function fail(what, uri)
    error(("%s: %q"):format(what, uri), 0)
end


describe("a random URI", function()
    it("that is well-formed has the parts that it was made of", function()
        each(ROUNDS, function()
            local made = well_formed()
            local parts, err = http:parse_uri(made.uri, false)
            if not parts then
                fail(err, made.uri)
            end
            local same = parts[1] == made.scheme and parts[2] == made.host and parts[3] == made.port
                and parts[4] == made.path and parts[5] == (made.query or "")
            if not same then
                fail(table.concat(parts, " "), made.uri)
            end
            local whole = http:parse_uri(made.uri)
            local has_query = made.query and made.query ~= ""
            if whole[4] ~= made.path .. (has_query and "?" .. made.query or "")
                or (has_query and whole[5]) then
                fail("the query is not in the path", made.uri)
            end
        end)
    end)

    it("of any bytes is refused, or leads to exactly one place", function()
        local taken = 0
        each(ROUNDS, function()
            local uri = (math.random(2) == 1 and "http://" or "") .. some(ANY, 8)
            local parts, err = http:parse_uri(uri, false)
            if not parts then
                return type(err) == "string" or fail("no error", uri)
            end
            taken = taken + 1
            local scheme, host, port, path, query = unpack(parts)
            if not (scheme == "http" or scheme == "https") then
                fail("scheme " .. scheme, uri)
            elseif host == "" or host:find("[%s%c/?#@\\\"<>^`{|}]") then
                fail("host " .. host, uri)
            elseif host:find("[%[%]:]") and not host:find("^%[[%x:.]+%]$") then
                fail("host " .. host, uri)
            elseif port % 1 ~= 0 or port < 1 or port > 65535 then
                fail("port " .. port, uri)
            elseif not path:find("^[/#]") or path:find("?", 1, true) then
                fail("path " .. path, uri)
            end
            -- Nothing of it is lost, nothing is said twice.
            local rest = uri:match("^%a+://(.*)$")
            if rest:sub(1, #host) ~= host or not (host .. rest):find(query, 1, true) then
                fail("not the host that stands there, or another query", uri)
            end
            -- What was parsed is parsed the same.
            local same = ("%s://%s:%d%s?%s"):format(scheme, host, port, path, query)
            local again = http:parse_uri(same, false)
            for i = 1, 5 do
                if not again or again[i] ~= parts[i] then
                    fail("another one the second time", uri)
                end
            end
        end)
        assert.is_true(taken > ROUNDS / 20, "hardly any was taken: " .. taken)
    end)

    it("with a user is refused without naming the password", function()
        each(ROUNDS, function()
            local made = well_formed()
            local password = "secret" .. some({ "a", "1", ":", "%40", "-" }, 4)
            local uri = made.uri:gsub("://", "://user:" .. password:gsub("%%", "%%%%") .. "@", 1)
            local parts, err = http:parse_uri(uri)
            if parts then
                fail("taken", uri)
            elseif err:find("secret", 1, true) then
                fail("told: " .. err, uri)
            end
        end)
    end)
end)
