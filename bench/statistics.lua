--- Medians, and how ratios come out of rounds.
local _M = {}


--- The middle one of some numbers, or the mean of the two in the middle.
---@param numbers number[]
---@return number? median nil if there are none
function _M.median(numbers)
    local sorted = { unpack(numbers) }
    table.sort(sorted)
    local count = #sorted
    if count == 0 then
        return nil
    end
    local middle = math.floor(count / 2)
    return count % 2 == 1 and sorted[middle + 1] or (sorted[middle] + sorted[middle + 1]) / 2
end


--- The share `at` of some numbers is not above it.
---@param sorted number[]
---@param at number 0.99
---@return number
function _M.percentile(sorted, at)
    return sorted[math.max(1, math.ceil(#sorted * at))]
end


--- Divides round by round, because what disturbs a machine disturbs both halves of a round.
---@param ours number[] one of each round
---@param others number[] of the same rounds
---@param noise number? rounds in which the other is below it have no ratio
---@return number[] ratios of the rounds that have both
function _M.ratios(ours, others, noise)
    local ratios = {}
    for round = 1, math.max(table.maxn(ours), table.maxn(others)) do
        if ours[round] and others[round] and others[round] > (noise or 0) then
            ratios[#ratios + 1] = ours[round] / others[round]
        end
    end
    return ratios
end


return _M
