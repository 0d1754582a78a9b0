local fs = require("spec.support.fs")
local process = require("spec.support.process")

local ENGLISH = [[
# A page

Some text.

```shell
# not a heading
```

## A table

| a | b |
|---|---|
| 1 | 2 |

### More
]]

local CHINESE = [[
# 一个页面

一些文字。

```shell
# 不是标题
```

## 一个表格

| 甲 | 乙 |
|---|---|
| 1 | 2 |

### 更多
]]


-- What the check says of a page and its translation.
local function check(english, chinese)
    local dir = fs.temp_dir("pages")
    fs.write(dir .. "/en.md", english)
    fs.write(dir .. "/zh.md", chinese)
    return process.run({ "tools/check-translations", dir .. "/en.md", dir .. "/zh.md" },
                       { cwd = fs.repo })
end


describe("tools/check-translations", function()
    it("is content with a page that has the same outline", function()
        local result = check(ENGLISH, CHINESE)
        assert.equals(0, result.code, result.stdout .. result.stderr)
    end)

    for what, change in pairs({
        ["a missing heading"] = { "### 更多\n", "" },
        ["another heading"] = { "### 更多\n", "### 更多\n### 其他\n" },
        ["a heading of another level"] = { "### 更多", "## 更多" },
        ["a missing row of a table"] = { "| 1 | 2 |\n", "" },
        ["a missing block of code"] = { "```shell\n# 不是标题\n```\n", "" },
    }) do
        it("finds " .. what, function()
            local result = check(ENGLISH, (CHINESE:gsub(change[1], change[2])))
            assert.equals(1, result.code)
            assert.matches("heading of level", result.stdout, 1, true)
        end)
    end

    it("finds a page without a translation", function()
        local result = process.run({ "tools/check-translations", "README.md", "none.md" },
                                   { cwd = fs.repo })
        assert.equals(1, result.code)
        assert.matches("none.md", result.stdout, 1, true)
    end)

    it("is content with the pages of this project", function()
        local result = process.run({ "tools/check-translations" }, { cwd = fs.repo })
        assert.equals(0, result.code, result.stdout .. result.stderr)
    end)
end)
