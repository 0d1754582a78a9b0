std = "ngx_lua"
max_line_length = 100
exclude_files = { "examples/*/run" }

files["spec"] = { std = "+busted" }

-- These run in luajit, outside of nginx.
files["tools"] = { std = "luajit" }
files["bench"] = { std = "luajit" }
files["bench/gateway.lua"] = { std = "ngx_lua" }
files["spec/support"] = { std = "+luajit" }
files["rockspec"] = { std = "rockspec" }
files[".luacheckrc"] = { std = "luacheckrc" }
