-- Removes this worker from the set of workers that can check orders, and finds out whether the set has another.
-- KEYS[1] budget
-- ARGV[1] id of this worker
-- Returns 1 if another worker can check orders, otherwise 0
local able = KEYS[1] .. ':able-workers'
local now_ms = math.floor(now() * 1000)
redis.call('ZREM', able, take())
redis.call('ZREMRANGEBYSCORE', able, '-inf', now_ms)
-- Removes entries that expire in more than ABLE_MS: they were stored before the clock of Redis was moved back.
redis.call('ZREMRANGEBYSCORE', able, '(' .. (now_ms + ABLE_MS), '+inf')
return redis.call('EXISTS', able)
