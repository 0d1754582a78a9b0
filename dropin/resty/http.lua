--- Makes require("resty.http") this library, for everything that shares the Lua path.

return require("resty.mtls.http")
