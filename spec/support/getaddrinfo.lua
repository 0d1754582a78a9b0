--- A getaddrinfo that writes down what it is asked: LD_PRELOAD puts it in front of libc's.
---
---     local lookups = getaddrinfo.start()
---     plain.run_lua(chunk, { env = lookups.env })
---     assert.same({ "localhost" }, lookups:names())
---
--- It knows names of its own: "several.test" is 127.0.0.2 and 127.0.0.1, in this order. One that
--- ends in ".held.test" is 127.0.0.1, when the file is gone that has that name behind that of the
--- log: "log.one.held.test". It waits 10 s at the most.
local fs = require("spec.support.fs")
local process = require("spec.support.process")

local _M = {}

local SOURCE = [[
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <netdb.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    typedef int lookup_fn(const char *, const char *, const struct addrinfo *, struct addrinfo **);

    int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                    struct addrinfo **result)
    {
        lookup_fn *lookup = (lookup_fn *) dlsym(RTLD_NEXT, "getaddrinfo");
        FILE *log = fopen(getenv("GETADDRINFO_LOG"), "a");
        fprintf(log, "%s\n", name);
        fclose(log);
        const char *ending = strstr(name, ".held.test");
        if (ending && !ending[strlen(".held.test")]) {
            char path[4096];
            snprintf(path, sizeof path, "%s.%s", getenv("GETADDRINFO_LOG"), name);
            for (int i = 0; i < 1000 && access(path, F_OK) == 0; i++) {
                usleep(10000);
            }
            return lookup("127.0.0.1", service, hints, result);
        }
        if (strcmp(name, "several.test") != 0) {
            return lookup(name, service, hints, result);
        }
        int code = lookup("127.0.0.2", service, hints, result);
        if (code == 0) {
            struct addrinfo *last = *result;
            while (last->ai_next) {
                last = last->ai_next;
            }
            code = lookup("127.0.0.1", service, hints, &last->ai_next);
        }
        return code;
    }
]]

local library

---@class Lookups
---@field env table<string, string> for the process
---@field log string
local Lookups = {}
Lookups.__index = Lookups


--- Prepares the environment of a process.
---@return Lookups
function _M.start()
    local dir = fs.temp_dir("getaddrinfo")
    if not library then
        library = dir .. "/getaddrinfo.so"
        process.check({ "cc", "-shared", "-fPIC", "-O1", "-x", "c", "-", "-o", library, "-ldl" },
                      { stdin = SOURCE })
    end
    local log = dir .. "/log"
    return setmetatable({
        log = log, env = { LD_PRELOAD = library, GETADDRINFO_LOG = log },
    }, Lookups)
end


--- What has been looked up, in this order.
---@return string[]
function Lookups:names()
    local names = {}
    for name in (fs.read(self.log) or ""):gmatch("([^\n]*)\n") do
        names[#names + 1] = name
    end
    return names
end


return _M
