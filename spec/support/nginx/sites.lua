--- nginx with several TLS listeners, each with its own certificate and demands.
---
--- `/echo` answers with an empty page whose headers say what it knows: X-Subject, X-Protocol. A
--- missing certificate and a bad one are answered with status 400; X-Verify says why.
local server = require("spec.support.nginx.server")

local _M = {}

local SITE = [[
    server {
        listen 127.0.0.1:${port.$NAME} ssl;
        ssl_protocols $PROTOCOLS;
        ssl_certificate ${cert.$CERT};
        ssl_certificate_key ${cert.$KEY};
        ssl_client_certificate ${cert.$CLIENT_CA};
        ssl_verify_client $VERIFY;
        ssl_verify_depth 3;
        $CRL
        add_header X-Subject $ssl_client_s_dn always;
        add_header X-Protocol $ssl_protocol always;
        add_header X-Verify $ssl_client_verify always;
        location = /echo {
            return 200;
        }
    }
]]

local VERIFY = { require = "on", optional = "optional", none = "off" }


local function site_text(name, site)
    local identity = site.cert or "server"
    return (SITE:gsub("%$([A-Z_]+)", {
        NAME = name, CERT = identity .. (site.leaf_only and ".leaf.crt" or ".crt"),
        KEY = identity .. ".key", CLIENT_CA = (site.client_ca or "ca") .. ".crt",
        VERIFY = VERIFY[site.verify or "require"],
        PROTOCOLS = site.version and "TLSv" .. site.version or "TLSv1.2 TLSv1.3",
        CRL = site.crl and "ssl_crl " .. site.crl .. ";" or "",
    }))
end


--- Starts nginx with one listener for each site.
---@param opts { sites: table<string, Site> } by names that ports may have in a template
---@return Nginx server with `ports` by the names of the sites
function _M.start(opts)
    local texts = {}
    for name, site in pairs(opts.sites) do
        texts[#texts + 1] = site_text(name, site)
    end
    return server.start({ http = table.concat(texts) })
end


return _M
