-- Begins a reading of the list of orders if one is due and more new orders wait than can soon be checked one by one.
-- KEYS[1]   budget
-- ARGV[1]   fewest waiting orders
-- ARGV[2]   requests in a window
-- ARGV[3]   window in ms
-- ARGV[4]   requests that may be made at once after a pause
-- ARGV[5]   lease in ms: how long no other reading may begin
-- ARGV[6]   number of the worker's API keys
-- ARGV[7..] fingerprints of these keys
-- Returns {1 if enough new orders wait, so that a reading may begin soon, otherwise 0; list of the waiting orders, for
--   each its id and creation time in ms since 1970, which is empty unless a reading begins now}.
local budget = KEYS[1]
local fewest, limit, window, burst, lease, keys =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), take_list()
local now_ms = math.floor(now() * 1000)

tidy_wait_queue(budget, now_ms)
local orders = redis.call('HLEN', budget .. ':created-at') - redis.call('SCARD', budget .. ':details-missing')
if orders < fewest then
    return { 0, {} }
end
local number, key = key_in_use(budget, keys)
if not number or breaker_open_for(budget, key) > 0 or probe_of(budget, key)
    or lasts_for(budget .. ':list-disabled') > 0 then
    return { 1, {} }
end
-- If `begin` is in the future, the clock of Redis was moved back since. Then `next` is wrong and delays no reading.
local begun, next_at = unpack(redis.call('HMGET', budget .. ':list-state', 'begin', 'next'))
if next_at and tonumber(next_at) > now_ms and tonumber(begun or 0) <= now_ms then
    return { 1, {} }
end
if redis.call('PTTL', budget .. ':list-lock') > lease then
    redis.call('DEL', budget .. ':list-lock')
end
local ahead = next_slot_of(budget, key, window, now_ms) - now_ms
local at_once = math.floor(burst - ahead * limit / window)
if orders <= at_once or not redis.call('SET', budget .. ':list-lock', 1, 'PX', lease, 'NX') then
    return { 1, {} }
end
redis.call('HSET', budget .. ':list-state', 'begin', now_ms)
return { 1, redis.call('HGETALL', budget .. ':created-at') }
