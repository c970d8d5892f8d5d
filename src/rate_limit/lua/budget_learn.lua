-- Counts orders that became final, by their age. All counts are halved at a limit, so that recent orders weigh more.
-- KEYS[1] budget
-- ARGV: number of counted orders at which all counts are halved, then for each order: number of the age range
--   (`Completions::span`)
-- Returns nothing
local completions, most = KEYS[1] .. ':completions', tonumber(take())
local all = 0
while at < #ARGV do
    redis.call('HINCRBY', completions, take(), 1)
    all = redis.call('HINCRBY', completions, 'all', 1)
end
if all >= most then
    local counts = redis.call('HGETALL', completions)
    for n = 1, #counts, 2 do
        redis.call('HSET', completions, counts[n], math.floor(tonumber(counts[n + 1]) / 2))
    end
end
