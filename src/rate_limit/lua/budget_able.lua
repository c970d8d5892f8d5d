-- Records that a worker can check orders, and finds out whether a request that verifies a key is useful.
-- KEYS[1] budget
-- ARGV: id of the worker (empty: record nothing), list of the fingerprints of its API keys (their number, then each)
-- Returns 1 if a request may show that a key is valid or that the provider answers again, otherwise 0
local budget, worker, keys = KEYS[1], take(), take_list()
local number, key = key_in_use(budget, keys)
if not number then
    return 0
end
if redis.call('EXISTS', budget .. ':mistrust-rounds:' .. key) == 1 then
    return 0
end
note_able(budget, worker, math.floor(now() * 1000))
if breaker_open_for(budget, key) > 0 then
    return 0
end
-- Includes the keys before the one in use: when the refusal of a key has expired, the provider may accept it again.
for n = 1, number do
    if lasts_for(budget .. ':refused:' .. keys[n]) == 0 and probe_of(budget, keys[n]) then
        return 1
    end
end
return 0
