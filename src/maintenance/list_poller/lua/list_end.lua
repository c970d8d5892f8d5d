-- Ends a reading of the list of orders.
-- KEYS[1] budget
-- ARGV[1] time in ms since 1970: the reading saw every listed order created since then; 0 if the reading failed
-- ARGV[2] ms between the beginnings of two readings
-- ARGV[3] ms for which the list counts as read regularly; after a failure: ms to disable list polling for, or 0
-- ARGV[4] ms for which an order counts as seen in the list; absent after a failure
-- Returns 1, or 0 after a failure.
local budget = KEYS[1]
local from, every = take(), tonumber(take())
local now_ms = math.floor(now() * 1000)
local began = tonumber(redis.call('HMGET', budget .. ':list-state', 'begin')[1] or now_ms)
redis.call('DEL', budget .. ':list-lock')
if from == '0' then
    local left = tonumber(take())
    if left > 0 then
        last_for(budget .. ':list-disabled', left)
        redis.call('DEL', budget .. ':list-state', budget .. ':seen-in-list')
    else
        redis.call('HSET', budget .. ':list-state', 'next', now_ms + every)
    end
    return 0
end
local regular, seen_for = tonumber(take()), tonumber(take())
-- After a long reading the next one waits half an interval, so that other requests get permits.
local next_at = math.max(began + every, now_ms + every / 2)
redis.call('HSET', budget .. ':list-state', 'began', began, 'from', from, 'until', now_ms + regular + now_ms - began,
    'next', next_at, 'took', now_ms - began)
redis.call('ZREMRANGEBYSCORE', budget .. ':seen-in-list', '-inf', began - seen_for)
return 1
