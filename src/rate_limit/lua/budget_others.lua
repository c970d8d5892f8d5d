-- Whether another worker can check orders now.
-- KEYS[1] budget   ARGV: id of this worker
-- Returns 1 if there is one, otherwise 0
local able = KEYS[1] .. ':able-workers'
local now = math.floor(now() * 1000)
redis.call('ZREM', able, take())
redis.call('ZREMRANGEBYSCORE', able, '-inf', now)
-- What lies further ahead than it can was written before the clock of Redis was set back.
redis.call('ZREMRANGEBYSCORE', able, '(' .. (now + ABLE_MS), '+inf')
return redis.call('EXISTS', able)
