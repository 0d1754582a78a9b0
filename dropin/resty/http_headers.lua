--- The header tables of resty.http, which some libraries make for themselves.

return require("resty.mtls.headers")
