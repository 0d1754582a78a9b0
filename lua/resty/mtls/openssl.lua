--- Reads certificates and keys out of what `ngx.ssl.parse_pem_cert` and `parse_pem_priv_key` made.
---
--- These are OpenSSL's objects, so this goes through the libcrypto that nginx has loaded. The
--- native library has a crypto library of its own and knows nothing of OpenSSL.

local ffi = require("ffi")

local concat = table.concat
local find = string.find
local pcall = pcall
local tostring = tostring
local type = type


local _M = {}


-- OpenSSL 1.1 and later. BoringSSL calls the functions on stacks otherwise.
--
-- By names of our own: lua-resty-openssl declares the same functions with types of its own, and the
-- declaration that is used first counts for everybody in the Lua VM.
-- That goes for another version of this file, too: what changes here gets another name.
ffi.cdef([[
    typedef struct {} resty_mtls_object;
    int resty_mtls_stack_size(const resty_mtls_object *stack) asm("OPENSSL_sk_num");
    resty_mtls_object *resty_mtls_stack_item(const resty_mtls_object *stack, int index)
        asm("OPENSSL_sk_value");
    int resty_mtls_encode_certificate(const resty_mtls_object *certificate, unsigned char **out)
        asm("i2d_X509");
    resty_mtls_object *resty_mtls_to_pkcs8(const resty_mtls_object *key) asm("EVP_PKEY2PKCS8");
    int resty_mtls_encode_pkcs8(const resty_mtls_object *info, unsigned char **out)
        asm("i2d_PKCS8_PRIV_KEY_INFO");
    void resty_mtls_free_pkcs8(resty_mtls_object *info) asm("PKCS8_PRIV_KEY_INFO_free");
    void resty_mtls_forget_errors(void) asm("ERR_clear_error");
]])

-- What ngx.ssl's objects are. `ffi.istype` takes every pointer for one of these.
local POINTER = "^cdata<void %*>"

-- PEM text by the object that it was read from, for as long as that lives.
local known = setmetatable({}, { __mode = "k" })


local function to_pem(label, der)
    return "-----BEGIN " .. label .. "-----\n" .. ngx.encode_base64(der) .. "\n-----END " .. label
        .. "-----\n"
end


-- DER of an object, from one of OpenSSL's i2d functions.
local function to_der(encode, object)
    local size = encode(object, nil)
    if size <= 0 then
        return nil
    end
    local buffer = ffi.new("unsigned char[?]", size)
    encode(object, ffi.new("unsigned char *[1]", buffer))
    local der = ffi.string(buffer, size)
    -- It may be a key.
    ffi.fill(buffer, size)
    return der
end


local function read_chain(stack)
    local blocks = {}
    for i = 0, ffi.C.resty_mtls_stack_size(stack) - 1 do
        local certificate = ffi.C.resty_mtls_stack_item(stack, i)
        local der = to_der(ffi.C.resty_mtls_encode_certificate, certificate)
        blocks[i + 1] = der and to_pem("CERTIFICATE", der)
    end
    return blocks[1] and concat(blocks)
end


local function read_key(key)
    local info = ffi.C.resty_mtls_to_pkcs8(key)
    if info == nil then
        -- A key in a hardware token. nginx would complain of the error that is left behind.
        ffi.C.resty_mtls_forget_errors()
        return nil
    end
    local der = to_der(ffi.C.resty_mtls_encode_pkcs8, info)
    ffi.C.resty_mtls_free_pkcs8(info)
    return der and to_pem("PRIVATE KEY", der)
end


local function read(reader, object, maker)
    local pem = known[object]
    if pem then
        return pem
    end
    if not find(tostring(object), POINTER) or object == nil then
        return nil, "expected PEM text or what " .. maker .. " returned"
    end
    -- A libcrypto without one of these functions raises an error.
    local ok
    ok, pem = pcall(reader, ffi.cast("resty_mtls_object *", object))
    if not ok then
        return nil, "this process has no OpenSSL to read what " .. maker
            .. " returned: give the PEM text"
    end
    if not pem then
        return nil, "what " .. maker .. " returned cannot be read"
    end
    known[object] = pem
    return pem
end


--- Whether a value is a C object.
---@param value any
---@return boolean
function _M.is_cdata(value)
    return type(value) == "cdata"
end


--- PEM text of what `ngx.ssl.parse_pem_cert` or `parse_der_cert` returned.
---@param object ffi.cdata*
---@return string? pem
---@return string? err
function _M.certificates(object)
    return read(read_chain, object, "ngx.ssl.parse_pem_cert")
end


--- PEM text of what `ngx.ssl.parse_pem_priv_key` or `parse_der_priv_key` returned.
---@param object ffi.cdata*
---@return string? pem
---@return string? err
function _M.private_key(object)
    return read(read_key, object, "ngx.ssl.parse_pem_priv_key")
end


return _M
