-- Whether the list of orders is to be read now: when more orders wait than can be asked for one by one.
-- KEYS[1] budget   ARGV: fewest orders, requests a window, ms of a window, requests that may be made at once after a
--   pause, ms for which nobody else begins, list of the fingerprints of the worker's keys
-- Returns {1 if enough new orders wait that it may be soon, otherwise 0, {for each of them: its id, ms since 1970 at
-- which it was created}}; no orders where it is not now.
local budget = KEYS[1]
local fewest, limit, window, burst, lease, keys =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), take_list()
local now = math.floor(now() * 1000)

tidy_line(budget, now)
local line = redis.call('HLEN', budget .. ':tracked') - redis.call('SCARD', budget .. ':ready')
if line < fewest then
    return { 0, {} }
end
local number, key = key_in_use(budget, keys)
if not number or breaker_open_for(budget, key) > 0 or probe_of(budget, key)
    or closed_for(budget .. ':unlisted') > 0 then
    return { 1, {} }
end
-- A reading that began later than now did so before the clock was set back.
local begun, next_at = unpack(redis.call('HMGET', budget .. ':listed', 'begin', 'next'))
if next_at and tonumber(next_at) > now and tonumber(begun or 0) <= now then
    return { 1, {} }
end
if redis.call('PTTL', budget .. ':listing') > lease then
    redis.call('DEL', budget .. ':listing')
end
local paced = paced_until(budget, key, window, now) - now
local at_once = math.floor(burst - paced * limit / window)
if line <= at_once or not redis.call('SET', budget .. ':listing', 1, 'PX', lease, 'NX') then
    return { 1, {} }
end
redis.call('HSET', budget .. ':listed', 'begin', now)
return { 1, redis.call('HGETALL', budget .. ':tracked') }
