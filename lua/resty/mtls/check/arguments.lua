--- The command line of `resty-mtls-check`.

local uris = require("resty.mtls.uri")

local find = string.find
local gsub = string.gsub
local lower = string.lower
local match = string.match
local sub = string.sub
local tonumber = tonumber


local _M = {}


_M.HELP = [[
Usage: resty-mtls-check [OPTION]... HOST[:PORT]
       resty-mtls-check [OPTION]... https://HOST[:PORT][/PATH]

Connects to a server as resty.mtls.http does, and says what is wrong with TLS and with client
certificates. Messages name the option of connect() that stands in brackets here.

The client's identity:
  --cert FILE               certificate and its chain, PEM (ssl_cert_path)
  --key FILE                its key, PEM; the file of --cert unless given (ssl_key_path)
  --pkcs12 FILE             both in one PKCS#12 file (ssl_pkcs12)
  --key-password-file FILE  its first line decrypts the key or PKCS#12 file (ssl_key_password);
                            or put the passphrase into the variable RESTY_MTLS_KEY_PASSWORD

Whom to trust:
  --ca FILE|DIR             CAs, PEM; may be repeated; the system's unless given
                            (ssl_trusted_certificate)
  --crl FILE                revocation lists, PEM (ssl_crl)
  --pin sha256//BASE64      the server's key; may be repeated (ssl_pinned_pubkey)
  --server-name NAME        name to send and to verify; HOST unless given (ssl_server_name)
  --insecure                do not verify the server (ssl_verify = false)

Connection and request:
  --path /PATH              send a GET. Only an answer shows that the certificate is accepted
  --http-version 1.1|2|auto (http_version)
  --min-version TLSv1.2|TLSv1.3, --max-version TLSv1.2|TLSv1.3
  --timeout MS              for each step; 10000 unless given

  --json                    a report for programs
  --help, --version

Exit status: 0 all is well, 1 a fault was found, 2 wrong usage, 3 no connection to the server.
]]

-- Each option that takes a value, and the connect option that it sets.
local with_value = {
    ["--cert"] = "ssl_cert_path",
    ["--key"] = "ssl_key_path",
    ["--key-password-file"] = "password_file",
    ["--pkcs12"] = "ssl_pkcs12",
    ["--ca"] = "ssl_trusted_certificate",
    ["--crl"] = "ssl_crl",
    ["--pin"] = "ssl_pinned_pubkey",
    ["--server-name"] = "ssl_server_name",
    ["--http-version"] = "http_version",
    ["--min-version"] = "ssl_min_version",
    ["--max-version"] = "ssl_max_version",
    ["--path"] = "path",
    ["--timeout"] = "timeout",
}

local repeatable = { ["--ca"] = true, ["--pin"] = true }

local versions = {
    ["tlsv1.2"] = "TLSv1.2", ["1.2"] = "TLSv1.2", ["tlsv1.3"] = "TLSv1.3", ["1.3"] = "TLSv1.3",
}


-- "host", "host:443", "::1", "[::1]", "[::1]:443"
local function parse_host(target)
    local host, port = match(target, "^%[([%x:.]+)%](.*)$")
    if not host and match(target, "^[%x.]*:[%x.]*:[%x:.]*$") then
        host, port = target, ""
    elseif not host then
        host, port = match(target, "^([^:/]+)(.*)$")
    end
    local number = port == "" and 443 or tonumber(match(port or "", "^:(%d+)$"))
    if not host or not number or number < 1 or number > 65535 then
        return nil, "'" .. target .. "' is not HOST:PORT"
    end
    return { host = host, port = number }
end


local function parse_target(target)
    if not find(target, "://", 1, true) then
        return parse_host(target)
    end
    local parsed, err = uris.parse(target)
    if not parsed then
        return nil, err
    elseif parsed[1] ~= "https" then
        return nil, "only https can be checked"
    end
    return {
        host = gsub(parsed[2], "[%[%]]", ""), port = parsed[3],
        path = match(target, "://[^/?#]+[/?]") and gsub(parsed[4], "#.*", "") or nil,
    }
end


-- "--name=value" and "--name value" to name and value; anything else is a target.
local function split(argv, i)
    local name, value = match(argv[i], "^(%-%-[^=]+)=(.*)$")
    if name then
        return name, value, i
    elseif with_value[argv[i]] then
        return argv[i], argv[i + 1], i + 1
    end
    return argv[i], nil, i
end


local function take(given, name, value)
    local key = with_value[name]
    if value == nil or value == "" then
        return nil, name .. " needs a value"
    elseif repeatable[name] then
        given[key] = given[key] or {}
        given[key][#given[key] + 1] = value
    elseif given[key] then
        return nil, name .. " is given twice"
    else
        given[key] = value
    end
    return true
end


local flags = { ["--json"] = "json", ["--insecure"] = "insecure" }
local actions = { ["--help"] = "help", ["-h"] = "help", ["--version"] = "version" }


local function read_arguments(argv)
    local given, targets = {}, {}
    local i = 1
    while i <= #argv do
        local name, value, last = split(argv, i)
        if argv[i] == "--" then
            for j = i + 1, #argv do
                targets[#targets + 1] = argv[j]
            end
            break
        elseif actions[argv[i]] then
            return { action = actions[argv[i]] }
        elseif flags[argv[i]] then
            given[flags[argv[i]]] = true
        elseif with_value[name] then
            local ok, err = take(given, name, value)
            if not ok then
                return nil, err
            end
        elseif sub(argv[i], 1, 1) == "-" then
            return nil, "there is no option " .. name
        else
            targets[#targets + 1] = argv[i]
        end
        i = last + 1
    end
    if #targets ~= 1 then
        return nil, #targets == 0 and "no server is given" or "more than one server is given"
    end
    return given, targets[1]
end


local function read_password(given, getenv)
    if not given.password_file then
        return getenv("RESTY_MTLS_KEY_PASSWORD")
    end
    local file, err = io.open(given.password_file, "rb")
    local line = file and file:read("*l")
    if file then
        file:close()
    end
    if not line then
        return nil, "cannot read a passphrase from --key-password-file: "
            .. (err or given.password_file .. ": it is empty")
    end
    return (gsub(line, "\r$", ""))
end


local function add_identity(given, options, getenv)
    if given.ssl_pkcs12 and (given.ssl_cert_path or given.ssl_key_path) then
        return nil, "--pkcs12 goes without --cert and --key"
    elseif given.ssl_key_path and not given.ssl_cert_path then
        return nil, "--key needs --cert"
    end
    local has_identity = given.ssl_pkcs12 or given.ssl_cert_path
    if given.password_file and not has_identity then
        return nil, "--key-password-file needs --cert or --pkcs12"
    end
    options.ssl_cert_path = given.ssl_cert_path
    options.ssl_key_path = given.ssl_key_path or given.ssl_cert_path
    options.ssl_pkcs12 = given.ssl_pkcs12
    if has_identity then
        local password, err = read_password(given, getenv)
        if err then
            return nil, err
        end
        options.ssl_key_password = password
    end
    return true
end


local function add_trust(given, options)
    local cas = given.ssl_trusted_certificate
    options.ssl_trusted_certificate = cas and (cas[2] and cas or cas[1])
    options.ssl_crl = given.ssl_crl
    options.ssl_pinned_pubkey = given.ssl_pinned_pubkey
        and table.concat(given.ssl_pinned_pubkey, ";")
    options.ssl_server_name = given.ssl_server_name
    if given.insecure then
        options.ssl_verify = false
    end
end


local http_versions = { ["1.1"] = 1.1, ["2"] = 2, auto = "auto" }


local function add_versions(given, options)
    options.http_version = http_versions[given.http_version or ""]
    if given.http_version and not options.http_version then
        return nil, "--http-version is 1.1, 2 or auto"
    end
    for option, name in pairs({ ssl_min_version = "--min-version",
                                ssl_max_version = "--max-version" }) do
        options[option] = versions[lower(given[option] or "")]
        if given[option] and not options[option] then
            return nil, name .. " is TLSv1.2 or TLSv1.3"
        end
    end
    return true
end


local function add_request(given, options)
    options.path = given.path or options.path
    if options.path and sub(options.path, 1, 1) ~= "/" then
        return nil, "--path has to begin with /"
    end
    if given.timeout then
        options.timeout = match(given.timeout, "^%d+$") and tonumber(given.timeout)
        if not options.timeout or options.timeout < 1 then
            return nil, "--timeout is a number of milliseconds, at least 1"
        end
    end
    return true
end


--- Reads the command line.
---@param argv string[]
---@param getenv fun(name: string): string?
---@return {action: "help"|"version"|"check", json: boolean?, options: table?,
---        assumes_key: boolean?}? wanted `assumes_key` if no --key was given beside --cert
---@return string? err
function _M.parse(argv, getenv)
    local given, target = read_arguments(argv)
    if not given or given.action then
        return given, target
    end
    local options, err = parse_target(target)
    if not options then
        return nil, err
    end
    local ok
    ok, err = add_identity(given, options, getenv)
    if ok then
        ok, err = add_versions(given, options)
    end
    if ok then
        ok, err = add_request(given, options)
    end
    if not ok then
        return nil, err
    end
    add_trust(given, options)
    return {
        action = "check", json = given.json, options = options,
        assumes_key = given.ssl_cert_path ~= nil and given.ssl_key_path == nil,
    }
end


return _M
