-- Notes that a worker can check orders. Returns whether a verification may show that its key is good, or that the
-- provider is back.
-- KEYS[1] budget   ARGV: id of the worker, list of the fingerprints of its keys
-- Returns 1 where such a request may be made, otherwise 0
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
-- An earlier key than the one in use may be good, or good again.
for n = 1, number do
    if lasts_for(budget .. ':refused:' .. keys[n]) == 0 and probe_of(budget, keys[n]) then
        return 1
    end
end
return 0
