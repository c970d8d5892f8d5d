-- Says that the list has been read, or that it cannot be.
-- KEYS[1] budget   ARGV: ms since 1970 from which on it was read, ms until it is read again, ms for which it is
--   taken to be read regularly, ms for which it counts that the list showed an order; or 0, ms until it is tried again, ms for which it is
--   not read at all
local budget = KEYS[1]
local from, every = take(), tonumber(take())
local now = math.floor(now() * 1000)
local began = tonumber(redis.call('HMGET', budget .. ':list-state', 'begin')[1] or now)
redis.call('DEL', budget .. ':list-lock')
if from == '0' then
    local left = tonumber(take())
    if left > 0 then
        last_for(budget .. ':list-disabled', left)
        redis.call('DEL', budget .. ':list-state', budget .. ':seen-in-list')
    else
        redis.call('HSET', budget .. ':list-state', 'next', now + every)
    end
    return 0
end
local regular, seen_for = tonumber(take()), tonumber(take())
-- A reading that took longer than that leaves the others some time before the next.
local next_at = math.max(began + every, now + every / 2)
redis.call('HSET', budget .. ':list-state', 'began', began, 'from', from, 'until', now + regular + now - began,
    'next', next_at, 'took', now - began)
redis.call('ZREMRANGEBYSCORE', budget .. ':seen-in-list', '-inf', began - seen_for)
return 1
