--- A minute of everything at a time, with faults: `make soak` in short. soak/ has what it does.
local runner = require("soak.runner")

local SECONDS = 60


describe("a minute of mixed load with faults", function()
    it("gives each request its answer or a documented error, and leaves nothing", function()
        local result = runner.run({ seconds = SECONDS, seed = os.time() % 1000000 })
        io.stdout:write(result.summary, "\n")
        assert.same({}, result.findings, result.report)
    end)
end)
