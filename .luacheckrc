std = "ngx_lua"
max_line_length = 100
exclude_files = { "examples/*/run" }

files["spec"] = { std = "+busted" }

-- These run in luajit, outside of nginx.
files["tools"] = { std = "luajit" }
files["bench"] = { std = "luajit" }
files["bench/gateway.lua"] = { std = "ngx_lua" }
-- These run in nginx, beside those that do not.
files["soak"] = { std = "ngx_lua" }
files["soak/run.lua"] = { std = "luajit" }
files["soak/runner.lua"] = { std = "luajit" }
files["soak/servers.lua"] = { std = "luajit" }
files["soak/faults.lua"] = { std = "luajit" }
files["spec/support"] = { std = "+luajit" }
files["rockspec"] = { std = "rockspec" }
files[".luacheckrc"] = { std = "luacheckrc" }
