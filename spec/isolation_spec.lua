-- Callers at random, thousands of requests of two workers: is each made as the one who makes it?
-- ISOLATION_SEED=… repeats a run.
local isolation = require("spec.support.isolation")

local VISITS = 1200

local world
local seed = tonumber(os.getenv("ISOLATION_SEED")) or os.time()


setup(function() world = isolation.start() end)

teardown(function() world:stop() end)


local function sum(figures, name)
    local total = 0
    for _, of_worker in ipairs(figures) do
        total = total + (of_worker[name] or of_worker.stats[name])
    end
    return total
end


-- What the upstream saw, in the end: requests, how many of them on resumed sessions.
local function check_log(log)
    local requests, resumed, ids = 0, 0, {}
    for line in log:gmatch("[^\n]+") do
        local mistake, seen = world:check(line)
        assert.is_nil(mistake, line)
        requests = requests + 1
        resumed = resumed + (seen.session == "r" and 1 or 0)
        -- A request that was sent again was not answered before.
        if seen.status == "200" then
            assert.is_nil(ids[seen.id], line)
            ids[seen.id] = true
        end
    end
    return requests, resumed
end


local function tell(run, figures, requests)
    local refused = {}
    for _, of_worker in ipairs(figures) do
        for code, count in pairs(of_worker.refused_by_code) do
            refused[code] = (refused[code] or 0) + count
        end
    end
    local codes = {}
    for code, count in pairs(refused) do
        codes[#codes + 1] = code .. " " .. count
    end
    table.sort(codes)
    io.stdout:write(("isolation, %s, ISOLATION_SEED=%d: %d visits, %d answers, %d requests seen, "
        .. "%d connections opened, %d times one reused, %d sessions resumed, %d retries, "
        .. "%d killed, %d refused (%s)\n"):format(
        run, seed, sum(figures, "visits"), sum(figures, "good"), requests,
        sum(figures, "connections_opened"), sum(figures, "connections_reused"),
        sum(figures, "handshakes_resumed"), sum(figures, "retries"), sum(figures, "killed"),
        sum(figures, "refused"), table.concat(codes, ", ")))
end


local RUNS = {
    { title = "HTTP/1.1", name = "h1", versions = { 1.1 } },
    { title = "HTTP/2", name = "h2", versions = { 2 } },
    { title = "both", name = "mixed", versions = { 1.1, 2, "auto" } },
}

for _, run in ipairs(RUNS) do
    describe("thousands of requests of callers at random over " .. run.title, function()
        it("are each made as the one who makes it, where and through what it is meant", function()
            local figures, log = world:run({ name = run.name, versions = run.versions, seed = seed,
                                             visits = VISITS })
            local of = " ISOLATION_SEED=" .. seed
            for _, of_worker in ipairs(figures) do
                assert.equals("", of_worker.mistake_texts, of)
                assert.equals(0, of_worker.mistakes, of)
                assert.is_true(of_worker.has_turned, of)
                assert.is_true(of_worker.is_settled, of)
            end
            local requests, resumed = check_log(log)
            tell(run.title, figures, requests)
            -- It would show nothing if nothing of this had happened.
            assert.is_true(sum(figures, "good") >= VISITS, of)
            assert.is_true(requests >= sum(figures, "good"), of)
            assert.is_true(sum(figures, "refused") >= VISITS / 10, of)
            assert.is_true(sum(figures, "connections_reused") >= VISITS / 10, of)
            assert.is_true(sum(figures, "handshakes_resumed") >= VISITS / 20, of)
            assert.is_true(resumed > 0, of)
            assert.is_true(sum(figures, "retries") > 0, of)
            assert.is_true(sum(figures, "killed") > 0, of)
        end)
    end)
end
