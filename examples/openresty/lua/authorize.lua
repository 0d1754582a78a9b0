--- Asks a service, with a client certificate, whether a request may pass.

local http = require("resty.mtls.http")

local _M = {}

local uri, tls


--- Says whom to ask, and how. In init_by_lua, so that a certificate that cannot be read is told at
--- start-up.
---@param service string URI
---@param options table of resty.mtls.http's `connect`: certificate, key, trust
function _M.setup(service, options)
    uri, tls = service, options
end


--- Lets a request pass, with the user's name in ngx.ctx, or ends it. For access_by_lua.
function _M.check()
    local params = {
        headers = { Authorization = ngx.var.http_authorization },
        deadline = 3000,
    }
    for name, value in pairs(tls) do
        params[name] = value
    end

    local res, err, details = http.new():request_uri(uri, params)
    if not res then
        ngx.log(ngx.ERR, "cannot ask ", uri, ": ", err, " (", details.code, "): ", details.hint)
        return ngx.exit(err == "timeout" and 504 or 502)
    elseif res.status == 403 then
        return ngx.exit(401)
    elseif res.status ~= 200 then
        -- An nginx server says this of a certificate that it does not accept, with status 400.
        ngx.log(ngx.ERR, uri, " answered ", res.status, ": ", res.body)
        return ngx.exit(502)
    end
    ngx.ctx.user = res.headers["X-User"]
end


return _M
