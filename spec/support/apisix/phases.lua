--- Stand-in for the part of APISIX that has plugins handle a request.
--
-- A spec adds routes in init_by_lua; the first part of a request's path is the name of its route.

local core = require("apisix.core")
local secret = require("apisix.secret")

local _M = {}

local routes = {}


-- As core.ctx: variables of nginx, those that were set, and arguments of the query, decoded.
local function new_vars()
    local set = {}
    return setmetatable({}, {
        __index = function(_, name)
            if set[name] ~= nil then
                return set[name]
            elseif name:find("^arg_") then
                return ngx.req.get_uri_args()[name:sub(5)]
            end
            return ngx.var[name]
        end,
        __newindex = function(_, name, value)
            set[name] = value
        end,
    })
end


--- Adds a route with one plugin. What APISIX would refuse is an error.
---@param name string
---@param plugin string
---@param conf table
---@param opts {resolved: boolean?}? whether references to secrets are resolved before the plugin
---runs, as from APISIX 3.16 on
function _M.add(name, plugin, conf, opts)
    plugin = require("apisix.plugins." .. plugin)
    assert(plugin.check_schema(conf))
    routes[name] = { plugin = plugin, conf = conf, resolved = opts and opts.resolved }
end


--- What APISIX does with the plugins that a worker has loaded.
function _M.init_worker()
    for _, route in pairs(routes) do
        route.plugin.init()
    end
end


local function run(phase)
    local route = routes[ngx.var.uri:match("^/([%w_-]+)")]
    if not route or not route.plugin[phase] then
        return
    end
    local ctx = ngx.ctx.api_ctx
    if not ctx then
        ctx = { var = new_vars() }
        ngx.ctx.api_ctx = ctx
    end
    local conf = route.resolved and secret.fetch_secrets(route.conf, true, route.conf, "")
        or route.conf
    return route.plugin[phase](conf, ctx)
end


--- The access phase of a request.
function _M.access()
    local code, body = run("access")
    -- So that the server behind sees what the plugin has set.
    ngx.var.from_plugin = core.json.encode({ risk = ngx.ctx.api_ctx and ngx.ctx.api_ctx.var.risk })
    if code then
        ngx.status = code
        ngx.print(body or "")
        ngx.exit(code)
    end
end


--- The log phase of a request.
function _M.log()
    run("log")
end


return _M
