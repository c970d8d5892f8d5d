-- Puts back jobs that the store knows of and no queue holds; a dead letter counts as held.
-- KEYS: queues in which the same job may be   ARGV: most jobs that may wait in the first of these queues (0: any
--   number), ms within which a job of this queue that waits for a request runs again; then for each job: queue, id, payload,
--   failed attempts
-- Returns {number of jobs put back, 1 if there was no room for more}
local most, soon = tonumber(take()), tonumber(take()) / 1000
local room = math.huge
if most > 0 then
    local queue = KEYS[1]
    -- Those that wait for a request, or for the provider, are due again soon.
    local due = redis.call('ZRANGEBYSCORE', queue .. ':scheduled', '-inf', now() + soon, 'LIMIT', 0, most)
    room = most - #due - redis.call('LLEN', queue .. ':active')
end
local restored = 0
while at < #ARGV and restored < room do
    local queue, id, payload, attempts = take(), take(), take(), tonumber(take())
    local held = redis.call('HEXISTS', queue .. ':data', id) == 1
    for other = 1, #KEYS do
        held = held or redis.call('HEXISTS', KEYS[other] .. ':data', id) == 1
    end
    if not held then
        push(queue, id, payload, 0)
        if attempts > 0 then
            redis.pcall('HSET', queue .. ':meta:' .. id, 'attempts', attempts)
        end
        restored = restored + 1
    end
end
place()
return { restored, restored < room and 0 or 1 }
