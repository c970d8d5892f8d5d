-- Claims at most as many jobs as the worker has free slots.
-- KEYS[1] queue   ARGV: worker, limit
-- Returns {} for a worker that has lost its registration, otherwise
-- {milliseconds until the next scheduled job or -1, jobs still waiting, id, payload, attempts, faults, …}
local queue = KEYS[1]
local worker, limit = ARGV[1], tonumber(ARGV[2])

if not redis.call('ZSCORE', queue .. ':workers', worker) then
    return {}
end

local active, scheduled = queue .. ':active', queue .. ':scheduled'
local time = now()
-- Promotion is capped: whatever the backlog, one call does a bounded amount of work. It is done even
-- while the list is long, so that a stream of fresh jobs cannot hold back those that were scheduled.
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', time, 'LIMIT', 0, limit)
if #due > 0 then
    redis.call('RPUSH', active, unpack(due))
    redis.call('ZREM', scheduled, unpack(due))
end

local result = { -1, 0 }
local inflight = queue .. ':inflight:' .. worker
for _, id in ipairs(redis.call('LPOP', active, limit) or {}) do
    -- An id that a foreign program pushed twice is claimed once.
    if redis.call('SADD', inflight, id) == 1 then
        local counts = redis.pcall('HMGET', queue .. ':meta:' .. id, 'attempts', 'faults')
        result[#result + 1] = id
        result[#result + 1] = redis.call('HGET', queue .. ':data', id)
        result[#result + 1] = counts[1] or '0'
        result[#result + 1] = counts[2] or '0'
    end
end

local head = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
if head[2] then
    result[1] = math.max(0, math.ceil((tonumber(head[2]) - time) * 1000))
end
result[2] = redis.call('LLEN', active)
return result
