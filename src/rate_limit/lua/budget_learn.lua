-- Counts an order that became final, by the age at which it did.
-- KEYS[1] budget   ARGV: span of the age, orders after which all counts are halved
-- Returns nothing. Halving has what is new outweigh what is old.
local completions = KEYS[1] .. ':completions'
redis.call('HINCRBY', completions, ARGV[1], 1)
if redis.call('HINCRBY', completions, 'all', 1) >= tonumber(ARGV[2]) then
    local counts = redis.call('HGETALL', completions)
    for n = 1, #counts, 2 do
        redis.call('HSET', completions, counts[n], math.floor(tonumber(counts[n + 1]) / 2))
    end
end
