--- get.lua URI CA CERTIFICATE KEY: one GET with a client certificate. The last three are files.

local http = require("resty.mtls.http")


local function main(uri, ca, certificate, key)
    if not key then
        io.stderr:write("usage: luajit get.lua URI CA CERTIFICATE KEY\n")
        return 2
    end

    local httpc = http.new()
    local res, err, details = httpc:request_uri(uri, {
        ssl_trusted_certificate = ca,
        ssl_cert_path = certificate,
        ssl_key_path = key,
        deadline = 5000,
    })
    if not res then
        io.stderr:write(err, " (", details.code, ")\n", details.hint, "\n")
        return 1
    end

    local info = httpc:get_ssl_info()
    print(info.version, info.cipher, "sent " .. info.identity.subject)
    print(res.status, #res.body .. " bytes", ("%.1f ms"):format(res.timings.total))
    return 0
end


os.exit(main(...))
