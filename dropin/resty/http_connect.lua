--- The connect function of resty.http: `connect(httpc, options)`.

return require("resty.mtls.connect").connect
