-- Counts an order that became final, by its age. At ARGV[2] orders all counts are halved, so recent orders weigh more.
-- KEYS[1] budget
-- ARGV[1] number of the age range (`Completions::span`)
-- ARGV[2] number of counted orders at which all counts are halved
-- Returns nothing
local completions = KEYS[1] .. ':completions'
redis.call('HINCRBY', completions, ARGV[1], 1)
if redis.call('HINCRBY', completions, 'all', 1) >= tonumber(ARGV[2]) then
    local counts = redis.call('HGETALL', completions)
    for n = 1, #counts, 2 do
        redis.call('HSET', completions, counts[n], math.floor(tonumber(counts[n + 1]) / 2))
    end
end
