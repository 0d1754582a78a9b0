-- Pages that say how something is tested name a file, and behind a colon titles of its cases:
-- `spec/x_spec.lua`: "one title", "another one"
local fs = require("spec.support.fs")

local PAGES = { "docs/threat-model.md", "docs/reliability.md" }


-- The text with a space for each line end, so that a title may go over two lines.
local function text_of(page)
    return (fs.read(fs.repo .. "/" .. page):gsub("%s*\n%s*", " "))
end


-- The titles behind a file's name, which ends in front of `at`.
local function titles_at(text, at)
    local titles = {}
    local opening = "^`:? %(?\"([^\"]+)\"()"
    while true do
        local title, behind = text:match(opening, at)
        if not title then
            return titles
        end
        titles[#titles + 1], at, opening = title, behind, "^, \"([^\"]+)\"()"
    end
end


-- Calls `visit` with each file that is named and the titles that are quoted of it.
local function each_named(page, visit)
    local text = text_of(page)
    for file, at in text:gmatch("`(spec/[%w_/]+_spec%.lua)()`") do
        visit(file, titles_at(text, at))
    end
end


for _, page in ipairs(PAGES) do
    describe(page, function()
        it("names specs that there are, by titles that they have", function()
            local files, count, missing = 0, 0, {}
            each_named(page, function(file, titles)
                files = files + 1
                local path = fs.repo .. "/" .. file
                local source = fs.exists(path) and fs.read(path)
                if not source then
                    missing[#missing + 1] = file
                end
                for _, title in ipairs(titles) do
                    count = count + 1
                    if source and not source:find(title, 1, true) then
                        missing[#missing + 1] = file .. ": " .. title
                    end
                end
            end)
            assert.same({}, missing)
            assert.is_true(files >= 10 and count >= 10, files .. " files, " .. count .. " titles")
        end)

        it("quotes no title apart from a spec", function()
            local quoted, named = 0, 0
            for _ in text_of(page):gmatch("_spec%.lua`:? %(?\"") do
                quoted = quoted + 1
            end
            each_named(page, function(_, titles) named = named + math.min(#titles, 1) end)
            assert.equals(quoted, named)
        end)

        it("is linked from the README and its translation", function()
            for _, readme in ipairs({ "README.md", "README.zh-CN.md" }) do
                assert.matches("](" .. page .. ")", fs.read(fs.repo .. "/" .. readme), 1, true)
            end
        end)
    end)
end


describe("docs/reliability.md", function()
    -- Such a word stood in for a figure that was still to be filled in.
    it("has a figure or words in each cell of its tables, and no placeholder", function()
        local cells, placeholders = 0, {}
        for row in fs.read(fs.repo .. "/docs/reliability.md"):gmatch("[^\n]+") do
            for cell in (row:match("^|(.*)$") or ""):gmatch("[^|]+") do
                cells = cells + 1
                if cell:find("^%s*[%u_][%u%d_%-]+%s*$") then
                    placeholders[#placeholders + 1] = cell
                end
            end
        end
        assert.same({}, placeholders)
        assert.is_true(cells >= 60, cells .. " cells")
    end)
end)


describe("SECURITY.md", function()
    it("is linked from the README and its translation", function()
        for _, readme in ipairs({ "README.md", "README.zh-CN.md" }) do
            assert.matches("](SECURITY.md)", fs.read(fs.repo .. "/" .. readme), 1, true)
        end
    end)
end)
