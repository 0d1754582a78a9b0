--- Makes require("resty.ngx_http_ffi_client") this library: the name of a client that is part of
--- APISIX's own runtime, and that its AI plugins ask for from 3.18 on.

return require("resty.mtls.http")
