--- The modules of resty.http under their own names, and the functions of the module itself.
local cjson = require("cjson.safe")
local fs = require("spec.support.fs")
local http = require("resty.mtls.http")
local nginx = require("spec.support.nginx")
local peer = require("spec.support.peer")
local plain = require("spec.support.plain")
local scripted = require("spec.support.scripted")

local pack = scripted.pack

local DROPIN = fs.repo .. "/dropin/?.lua;"
local DROPIN_FFI = fs.repo .. "/dropin-ffi/?.lua;"

local upstream


setup(function() upstream = nginx.upstream() end)

teardown(function() upstream:stop() end)

after_each(scripted.finish)


describe("the drop-in", function()
    local gateway

    setup(function()
        gateway = nginx.gateway({ lua_path = DROPIN, init = [[
            local http = require("resty.http")
            assert(http.new() and http:new())
            print(require("resty.http") == require("resty.mtls.http"))
        ]] })
    end)

    teardown(function() gateway:stop() end)

    local function run(code, phase)
        return gateway:run(code, { phase = phase, vars = {
            port = upstream.port, plain = upstream.ports.plain,
        } })
    end

    it("is there in init_by_lua", function()
        assert.equals("true\n", gateway:result_of("init"))
    end)

    it("makes requests as resty.http, with a client certificate", function()
        for _, phase in ipairs({ "rewrite", "access", "content", "timer" }) do
            assert.equals("200\tCN=client-a,O=Example\n", run([[
                local res, err = require("resty.http").new():request_uri(
                    "https://localhost:${port}/echo", {
                        ssl_trusted_certificate = ${pem.ca.crt},
                        ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key},
                    })
                assert(res, err)
                print(res.status, res.body:match("subject: ([^\n]*)"))
            ]], phase))
        end
    end)

    it("has http_connect, which is connect as a function", function()
        assert.equals("true\t1\ntrue\t200\n", run([[
            local httpc, connect = require("resty.http").new(), require("resty.http_connect")
            local values = { n = select("#", connect(httpc, { scheme = "http", host = "127.0.0.1",
                                                              port = ${plain} })) }
            print(httpc:get_reused_times() == 0, values.n)
            local res = assert(httpc:request({ path = "/echo" }))
            print(httpc.host == "127.0.0.1", res.status)
            httpc:close()
        ]]))
        assert.equals("nil\tconnection refused\tconnect_refused\n", run([[
            local ok, err, details = require("resty.http_connect")(require("resty.http").new(),
                { scheme = "http", host = "127.0.0.1", port = 1 })
            print(ok, err:sub(1, 18), details.code)
        ]]))
    end)

    it("may be forgotten and required again, and both copies work", function()
        assert.equals("200\n200\n", run([[
            local function status(http)
                return assert(http.new():request_uri("http://127.0.0.1:${plain}/echo")).status
            end
            local first = require("resty.http")
            for _, name in ipairs({ "resty.http", "resty.http_connect", "resty.http_headers",
                                    "resty.mtls.http" }) do
                package.loaded[name] = nil
            end
            local second = require("resty.http")
            print(status(first))
            print(status(second))
        ]]))
    end)

    it("is found in plain luajit as well", function()
        assert.equals("true\t200\n", plain.run_lua([[
            local http = require("resty.http")
            local res = assert(http.new():request_uri("http://127.0.0.1:${plain}/echo"))
            print(http == require("resty.mtls.http"), res.status)
        ]], { vars = { plain = upstream.ports.plain },
              env = { LUA_PATH = DROPIN .. plain.env().LUA_PATH } }))
    end)
end)


describe("the drop-in for resty.ngx_http_ffi_client", function()
    local gateway

    setup(function()
        gateway = nginx.gateway({ lua_path = DROPIN_FFI, init = [[
            print(require("resty.ngx_http_ffi_client") == require("resty.mtls.http"))
        ]] })
    end)

    teardown(function() gateway:stop() end)

    local function run(code)
        return gateway:run([[
            local http = require("resty.ngx_http_ffi_client")
        ]] .. code, { vars = { port = upstream.port, plain = upstream.ports.plain } })
    end

    it("is there in init_by_lua", function()
        assert.equals("true\n", gateway:result_of("init"))
    end)

    it("connects, requests and keeps, with a client certificate", function()
        assert.equals("true\t200\tCN=client-a,O=Example\t1\n", run([[
            local httpc = http.new()
            httpc:set_timeout(3000)
            local ok = assert(httpc:connect({
                scheme = "https", host = "127.0.0.1", port = ${port}, ssl_verify = true,
                ssl_server_name = "localhost", ssl_trusted_certificate = ${pem.ca.crt},
                ssl_cert = ${pem.client-a.crt}, ssl_key = ${pem.client-a.key},
            }))
            local res = assert(httpc:request({
                method = "GET", path = "/echo", headers = { Host = "localhost" },
            }))
            local body = assert(res:read_body())
            print(ok, res.status, body:match("subject: ([^\n]*)"), httpc:set_keepalive(1000, 5))
        ]]))
    end)

    it("asks the function that set_resolver got, and no other", function()
        assert.equals("200\tllm.test\tllm.test\nfailed to parse domain\n", run([[
            local asked = {}
            assert(http.set_resolver(function(host)
                asked[#asked + 1] = host
                if host == "llm.test" then
                    return "127.0.0.1"
                end
                return nil, "no such name"
            end))
            local res = assert(http.new():request_uri("http://llm.test:${plain}/echo"))
            print(res.status, asked[1], res.body:match("host: ([%w.]*)"))
            local _, err = http.new():request_uri("http://elsewhere.test:${plain}/echo")
            print(err:match("^[%a ]*"))
            http.set_resolver(nil)
        ]]))
    end)

    it("gives a stream piece by piece as it arrives", function()
        local httpc, server = scripted.connected({ peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                      .. "Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"),
            peer.sleep(0.2), peer.send("9\r\ndata: 2\n\n\r\n0\r\n\r\n"),
            peer.receive_to_end() })
        assert.equals(http, dofile(fs.repo .. "/dropin-ffi/resty/ngx_http_ffi_client.lua"))
        local res = assert(httpc:request({ headers = { Accept = "text/event-stream" } }))
        assert.equals("data: 1\n\n", res.body_reader())
        assert.equals("data: 2\n\n", res.body_reader())
        assert.is_nil(res.body_reader())
        httpc:close()
        assert.matches("Accept: text/event-stream", server:received(1), 1, true)
    end)
end)


describe("package.loaded", function()
    it("takes the place of the folder", function()
        assert.equals("true\t200\n", nginx.run_lua([[
            package.loaded["resty.http"] = require("resty.mtls.http")
            local http = require("resty.http")
            local res = assert(http:new():request_uri("http://127.0.0.1:${plain}/echo"))
            print(http == require("resty.mtls.http"), res.status)
        ]], { vars = { plain = upstream.ports.plain } }))
    end)
end)


describe("http_headers", function()
    local headers = dofile(fs.repo .. "/dropin/resty/http_headers.lua")

    it("makes tables that are found in any letter case, and with underscores", function()
        local fields = headers.new()
        fields["Content-Type"] = "text/plain"
        for _, name in ipairs({ "Content-Type", "content-type", "CONTENT-TYPE", "content_type" }) do
            assert.equals("text/plain", fields[name])
        end
        assert.equals("text/plain", fields.content_type)
        assert.is_nil(fields["content"])
        assert.is_nil(fields[1])
    end)

    it("keeps the spelling of the first assignment, and one value", function()
        local fields = headers.new()
        fields["x-THING"] = "1"
        fields["X-Thing"] = "2"
        local names = {}
        for name, value in pairs(fields) do
            names[#names + 1] = name .. "=" .. value
        end
        assert.same({ "x-THING=2" }, names)
        fields["X-THING"] = nil
        assert.is_nil(next(fields))
    end)

    it("makes separate tables, which can be encoded as JSON", function()
        local one, two = headers.new(), headers.new()
        one["X-Thing"] = { "a", "b" }
        assert.is_nil(two["X-Thing"])
        assert.same({ ["X-Thing"] = { "a", "b" } }, cjson.decode((cjson.encode(one))))
    end)

    it("makes headers that can be sent", function()
        local httpc, server = scripted.answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        local fields = headers.new()
        fields["X-tHing"] = "1"
        fields["x-thing"] = "2"
        assert(httpc:request({ headers = fields }))
        assert.matches("\r\nX-tHing: 2\r\n", server:received(1), 1, true)
    end)
end)


describe("transfer_encoding_is_chunked", function()
    it("tells whether a header table says so", function()
        for _, case in ipairs({
            { { ["Transfer-Encoding"] = "chunked" }, true },
            { { ["Transfer-Encoding"] = "Chunked" }, true },
            { { ["Transfer-Encoding"] = "gzip, chunked" }, true },
            { { ["Transfer-Encoding"] = { "gzip", "chunked" } }, true },
            { { ["Transfer-Encoding"] = "gzip" }, false }, { {}, false },
            { { ["Content-Length"] = "4" }, false },
        }) do
            assert.equals(case[2], http.transfer_encoding_is_chunked(case[1]))
        end
        local httpc = scripted.answered("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
                                        .. "0\r\n\r\n")
        local res = assert(httpc:request({}))
        assert.is_true(http.transfer_encoding_is_chunked(res.headers))
    end)
end)


describe("trailers", function()
    local BODY = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%s\r\n4\r\nbody\r\n0\r\n%s\r\n"

    local function response(announced, lines)
        local httpc = scripted.answered(BODY:format(announced, lines))
        return assert(httpc:request({})), httpc
    end

    it("are found in the headers once they are read, announced or not", function()
        for _, announced in ipairs({ "", "Trailer: X-Sum, X-Many\r\n" }) do
            local res, httpc = response(announced,
                                        "X-Sum: 1\r\nX-Many: a\r\nx-many: b\r\n")
            assert.is_nil(res.headers["X-Sum"])
            assert.equals("body", res:read_body())
            assert.same({ nil, nil }, { res:read_trailers() })
            assert.equals("1", res.headers["x-sum"])
            assert.equals("1", res.headers.x_sum)
            assert.same({ "a", "b" }, res.headers["X-Many"])
            assert.equals(1, httpc:set_keepalive())
        end
    end)

    it("come from trailer_reader as a header table", function()
        local res = response("", "X-Sum: 1\r\n")
        assert(res:read_body())
        local trailers = res.trailer_reader()
        assert.equals("1", trailers["x-sum"])
    end)

    it("do not change what the head says", function()
        local res = response("X-Sum: head\r\n", "X-Sum: trailer\r\nContent-Length: 9\r\n")
        assert.equals("body", res:read_body())
        res:read_trailers()
        assert.equals("head", res.headers["X-Sum"])
    end)

    it("that are not there are told of", function()
        local res = response("", "")
        assert.equals("body", res:read_body())
        assert.same({ nil, "no trailers" }, { res:read_trailers() })
        local httpc = scripted.answered("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        res = assert(httpc:request({}))
        assert.equals("hi", res:read_body())
        assert.same({ nil, "no trailers" }, { res:read_trailers() })
    end)
end)


describe("debug", function()
    it("logs what is done, and none of what is secret", function()
        local gateway = nginx.gateway({ log_level = "debug" })
        local function lines_of(on)
            local before = #gateway:error_log()
            gateway:run([[
                local http = require("resty.mtls.http")
                http.debug(${on})
                local res = assert(http.new():request_uri("http://127.0.0.1:${plain}/body?s3cr3t", {
                    method = "POST", body = "s3cr3t", headers = { Authorization = "s3cr3t" },
                }))
                assert(res.body == "s3cr3t")
            ]], { vars = { on = on, plain = upstream.ports.plain } })
            local lines = {}
            for line in gateway:error_log():sub(before + 1):gmatch("[^\n]*resty%.mtls: [^\n]*") do
                lines[#lines + 1] = line
            end
            return table.concat(lines, "\n")
        end
        local shown = lines_of("true")
        assert.matches("connect to 127.0.0.1:" .. upstream.ports.plain, shown, 1, true)
        assert.matches("POST /body", shown, 1, true)
        assert.not_matches("s3cr3t", shown, 1, true)
        assert.equals("", lines_of("false"))
        gateway:stop()
    end)

    it("is off, and harmless outside of nginx", function()
        assert.same({ n = 0 }, pack(http.debug(true)))
        local httpc = scripted.answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert.equals(200, assert(httpc:request({})).status)
        http.debug(false)
    end)
end)


describe("the module", function()
    it("has a version and a user agent that names it", function()
        assert.matches("^%d+%.%d+", http._VERSION)
        assert.matches(http._VERSION, http._USER_AGENT, 1, true)
        local httpc, server = scripted.connected({ peer.receive_until("\r\n\r\n"),
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), peer.receive_to_end() })
        assert(httpc:request({}))
        assert.matches("\r\nUser-Agent: " .. http._USER_AGENT .. "\r\n", server:received(1), 1,
                       true)
    end)
end)
