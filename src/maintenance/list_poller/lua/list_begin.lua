-- Whether the list of orders is to be read now: when more orders wait than can be asked for one by one.
-- KEYS[1] budget   ARGV: fewest orders, requests a window, ms of a window, requests that may be made at once after a
--   pause, ms for which no other reading begins, list of the fingerprints of the worker's keys
-- Returns {1 if enough new orders wait that it may be soon, otherwise 0, {for each of them: its id, ms since 1970 at
-- which it was created}}; no orders where it is not now.
local budget = KEYS[1]
local fewest, limit, window, burst, lease, keys =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), take_list()
local now = math.floor(now() * 1000)

tidy_wait_queue(budget, now)
local waiting = redis.call('HLEN', budget .. ':created-at') - redis.call('SCARD', budget .. ':details-missing')
if waiting < fewest then
    return { 0, {} }
end
local number, key = key_in_use(budget, keys)
if not number or breaker_open_for(budget, key) > 0 or probe_of(budget, key)
    or lasts_for(budget .. ':list-disabled') > 0 then
    return { 1, {} }
end
-- A reading that began later than now did so before the clock was set back.
local begun, next_at = unpack(redis.call('HMGET', budget .. ':list-state', 'begin', 'next'))
if next_at and tonumber(next_at) > now and tonumber(begun or 0) <= now then
    return { 1, {} }
end
if redis.call('PTTL', budget .. ':list-lock') > lease then
    redis.call('DEL', budget .. ':list-lock')
end
local ahead = next_slot_of(budget, key, window, now) - now
local at_once = math.floor(burst - ahead * limit / window)
if waiting <= at_once or not redis.call('SET', budget .. ':list-lock', 1, 'PX', lease, 'NX') then
    return { 1, {} }
end
redis.call('HSET', budget .. ':list-state', 'begin', now)
return { 1, redis.call('HGETALL', budget .. ':created-at') }
