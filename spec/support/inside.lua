--- The part of the gateway that lives inside nginx: runs a chunk and writes down how it went.
local _M = {}

local function write_result(id, outcome, output)
    local path = ngx.config.prefix() .. "result-" .. id
    -- Each worker runs the chunk of init_worker, and may do so at the same moment.
    local new = path .. "." .. ngx.worker.pid() .. ".new"
    local file = assert(io.open(new, "wb"))
    file:write(outcome, "\n", output)
    file:close()
    assert(os.rename(new, path))
end


-- Appends its arguments to `output` as print would have shown them.
local function printer(output)
    return function(...)
        for i = 1, select("#", ...) do
            output[#output + 1] = (i > 1 and "\t" or "") .. tostring((select(i, ...)))
        end
        output[#output + 1] = "\n"
    end
end


local function run_function(chunk)
    local output = {}
    local print_to_output = printer(output)
    setfenv(chunk, setmetatable({ print = print_to_output }, { __index = _G }))

    local function collect(ok, ...)
        if not ok then
            return "error", table.concat(output) .. tostring((...))
        end
        if select("#", ...) > 0 then
            print_to_output(...)
        end
        return "ok", table.concat(output)
    end
    return collect(xpcall(chunk, debug.traceback))
end


--- Runs the chunk with that number.
---@param id string
function _M.run(id)
    local chunk, err = loadfile(ngx.config.prefix() .. "chunk-" .. id)
    if not chunk then
        write_result(id, "error", err)
        return
    end
    write_result(id, run_function(chunk))
end


--- Runs the chunk of a phase that belongs to no request, if the spec gave one.
---@param phase string
function _M.run_if_present(phase)
    local file = io.open(ngx.config.prefix() .. "chunk-" .. phase)
    if file then
        file:close()
        _M.run(phase)
    end
end


--- Runs a chunk the first time that the current request comes by.
---@param id string
function _M.run_once(id)
    if not ngx.ctx.chunk_has_run then
        ngx.ctx.chunk_has_run = true
        _M.run(id)
    end
end


return _M
