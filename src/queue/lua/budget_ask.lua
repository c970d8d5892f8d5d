-- Asks for one request to the provider, on behalf of an order.
-- KEYS[1] budget   ARGV: order, ms it may wait compared with one that asks now, requests a window, ms of a window,
--   requests that may be made at once after a pause, requests under way at most, ms a place among
--   them is held, ms a request may take, ms to look again while a probe is under way, longest ms to wait, number of keys
-- Returns {'ask', ticket, key, 1 for a probe, ms waited for it}, {'wait', ms} where others come first, or
-- {'closed', ms} while nobody may ask
local budget = KEYS[1]
local order, patience = take(), tonumber(take())
local limit, window, burst, most_flying, place, request, look, longest, keys =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()),
    tonumber(take()), tonumber(take()), tonumber(take())
-- One that has not come back so long after its time waits no more; its place is given up.
local GRACE_MS = 10000
local now = math.floor(now() * 1000)
local waiting, promised, since = budget .. ':waiting', budget .. ':promised', budget .. ':since'

local closed = redis.call('PTTL', budget .. ':gate')
if closed > 0 then
    return { 'closed', closed }
end
local key = tonumber(redis.call('GET', budget .. ':key') or '0')
if key >= keys then
    key = 0
end
local spent, flying = budget .. ':spent:' .. key, budget .. ':flying:' .. key
redis.call('ZREMRANGEBYSCORE', spent, '-inf', now)
redis.call('ZREMRANGEBYSCORE', flying, '-inf', now)
local pace = window / limit
local paced = math.max(tonumber(redis.call('GET', budget .. ':paced:' .. key) or '0'), now)
local used, under_way = redis.call('ZCARD', spent), redis.call('ZCARD', flying)

-- How long until this many requests may be made, by the window, the pace and what is under way.
local function wait_for(requests)
    local wait = math.max(0, paced + (requests - burst) * pace - now)
    if used + requests > limit then
        local oldest = redis.call('ZRANGE', spent, used + requests - limit - 1, used + requests - limit - 1, 'WITHSCORES')
        wait = math.max(wait, oldest[2] and tonumber(oldest[2]) - now or requests * pace)
    end
    if under_way + requests > most_flying then
        wait = math.max(wait, pace / 2 * (under_way + requests - most_flying))
    end
    return wait
end

local function grant(probe)
    local began = tonumber(redis.call('HGET', since, order) or now)
    redis.call('ZREM', waiting, order)
    redis.call('ZREM', promised, order)
    redis.call('HDEL', since, order)
    local ticket = redis.call('INCR', budget .. ':ticket')
    -- Until it is answered nobody knows when the provider counts it; it counts here for as long as it may.
    redis.call('ZADD', spent, now + request + window, ticket)
    redis.call('ZADD', flying, now + place, ticket)
    redis.call('SET', budget .. ':paced:' .. key, paced + pace, 'PX', math.ceil(paced + pace - now + window))
    return { 'ask', ticket, key, probe, now - began }
end

if redis.call('EXISTS', budget .. ':unproven') == 1 then
    -- The key is not known to be good: one asks for all.
    local wait = wait_for(1)
    if wait > 0 then
        return { 'closed', math.ceil(wait) }
    end
    if redis.call('SET', budget .. ':probe', 1, 'PX', request, 'NX') then
        return grant(1)
    end
    return { 'closed', look }
end

for _, gone in ipairs(redis.call('ZRANGEBYSCORE', promised, '-inf', now - GRACE_MS, 'LIMIT', 0, 100)) do
    redis.call('ZREM', waiting, gone)
    redis.call('ZREM', promised, gone)
    redis.call('HDEL', since, gone)
end
redis.call('ZADD', waiting, 'NX', now + patience, order)
redis.call('HSETNX', since, order, now)
local wait = wait_for(redis.call('ZRANK', waiting, order) + 1)
if wait <= 0 then
    return grant(0)
end
wait = math.min(math.max(math.ceil(wait), 1), longest)
redis.call('ZADD', promised, now + wait, order)
return { 'wait', wait }
