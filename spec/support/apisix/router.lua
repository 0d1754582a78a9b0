--- Stand-in for apisix.router: SSL objects by id.
--
-- `stand_in` is for the specs: `ssls` by id.

local strict = require("apisix.strict")

local stand_in = { ssls = {} }


local function get_by_id(id)
    return stand_in.ssls[tostring(id)]
end


return strict("apisix.router", {
    stand_in = stand_in,
    router_ssl = strict("apisix.router.router_ssl", { get_by_id = get_by_id }),
})
