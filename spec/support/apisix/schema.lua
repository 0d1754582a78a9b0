--- Stand-in for the validator of JSON schemas in apisix.core.schema: the keywords that the plugins
--- use, with the defaults filled in. Any other keyword is an error.

local sub_schemas = {}
local keywords = {}


-- A list of the decoder, or an empty table, which may be either.
local function is_array(value)
    return type(value) == "table" and (value[1] ~= nil or next(value) == nil)
end


local types = {
    string = function(value) return type(value) == "string" end,
    boolean = function(value) return type(value) == "boolean" end,
    integer = function(value) return type(value) == "number" and value % 1 == 0 end,
    array = is_array,
    object = function(value) return type(value) == "table" and value[1] == nil end,
}


local function copy(value)
    if type(value) ~= "table" then
        return value
    end
    local result = {}
    for name, item in pairs(value) do
        result[name] = copy(item)
    end
    return result
end


--- Whether a value is as the schema says.
---@param schema table
---@param value any gets defaults
---@return boolean ok
---@return string? err
local function check(schema, value)
    for name in pairs(schema) do
        if not keywords[name] then
            error("the stand-in for apisix.core.schema does not know '" .. tostring(name) .. "'", 0)
        end
    end
    if schema.type and not assert(types[schema.type], "no such type")(value) then
        return false, "wrong type: expected " .. schema.type .. ", got " .. type(value)
    end
    for name, keyword in pairs(keywords) do
        if schema[name] ~= nil and keyword then
            local ok, err = keyword(schema[name], value, schema)
            if not ok then
                return false, err
            end
        end
    end
    return true
end


local function ignored()
    return true
end


keywords.type = ignored
keywords.default = ignored
keywords.description = ignored
-- Of APISIX's, for the plugin and not for the validator.
keywords.encrypt_fields = ignored


function keywords.properties(properties, value)
    for name, schema in pairs(type(value) == "table" and properties or {}) do
        if value[name] == nil then
            value[name] = copy(schema.default)
        else
            local ok, err = check(schema, value[name])
            if not ok then
                return false, "property \"" .. name .. "\" validation failed: " .. err
            end
        end
    end
    return true
end


function sub_schemas.matching(schema, name)
    local found = {}
    for pattern, of_pattern in pairs(schema.patternProperties or {}) do
        if ngx.re.find(name, pattern) then
            found[#found + 1] = of_pattern
        end
    end
    return found
end


function keywords.patternProperties(_, value, schema)
    for name, item in pairs(type(value) == "table" and value or {}) do
        for _, of_pattern in ipairs(sub_schemas.matching(schema, name)) do
            local ok, err = check(of_pattern, item)
            if not ok then
                return false, "property \"" .. name .. "\" validation failed: " .. err
            end
        end
    end
    return true
end


function keywords.additionalProperties(allowed, value, schema)
    assert(allowed == false, "only false is known")
    for name in pairs(type(value) == "table" and value or {}) do
        if not (schema.properties or {})[name] and not sub_schemas.matching(schema, name)[1] then
            return false, "additional properties forbidden, found " .. name
        end
    end
    return true
end


function keywords.required(names, value)
    for _, name in ipairs(type(value) == "table" and names or {}) do
        if value[name] == nil then
            return false, "property \"" .. name .. "\" is required"
        end
    end
    return true
end


function keywords.dependencies(dependencies, value)
    for name, schema in pairs(type(value) == "table" and dependencies or {}) do
        if value[name] ~= nil then
            local ok, err = check(schema, value)
            if not ok then
                return false, err
            end
        end
    end
    return true
end


keywords["not"] = function(schema, value)
    return not check(schema, value), "value wasn't supposed to match schema"
end


function keywords.anyOf(schemas, value)
    for _, schema in ipairs(schemas) do
        if check(schema, value) then
            return true
        end
    end
    return false, "object matches none of the required"
end


function keywords.enum(values, value)
    for _, allowed in ipairs(values) do
        if value == allowed then
            return true
        end
    end
    return false, "matches none of the enum values"
end


function keywords.items(schema, value)
    for i, item in ipairs(type(value) == "table" and value or {}) do
        local ok, err = check(schema, item)
        if not ok then
            return false, "failed to validate item " .. i .. ": " .. err
        end
    end
    return true
end


function keywords.minItems(count, value)
    return not is_array(value) or #value >= count, "expect array to have at least " .. count
end


function keywords.minProperties(count, value)
    local found = 0
    for _ in pairs(type(value) == "table" and value or {}) do
        found = found + 1
    end
    return type(value) ~= "table" or found >= count, "expect object to have at least " .. count
end


function keywords.minimum(bound, value)
    return type(value) ~= "number" or value >= bound, "expected to be at least " .. bound
end


function keywords.maximum(bound, value)
    return type(value) ~= "number" or value <= bound, "expected to be at most " .. bound
end


function keywords.minLength(bound, value)
    return type(value) ~= "string" or #value >= bound, "string shorter than " .. bound
end


function keywords.maxLength(bound, value)
    return type(value) ~= "string" or #value <= bound, "string longer than " .. bound
end


function keywords.pattern(pattern, value)
    return type(value) ~= "string" or ngx.re.find(value, pattern) ~= nil,
        "failed to match pattern \"" .. pattern .. "\""
end


return check
