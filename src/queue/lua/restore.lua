-- Restores jobs that are in the database but in no queue. Dead letters count as jobs in a queue.
-- KEYS[1]   queue in which the same job may be; ARGV[1] limits how many jobs wait in it
-- KEYS[2..] other queues in which the same job may be
-- ARGV[1]   maximum number of jobs that wait in the first queue (0: unlimited)
-- ARGV[2]   ms: a job of the first queue that is due within this time counts as waiting
-- ARGV, then for each job:
--   queue
--   id
--   payload
--   failed attempts
-- Returns {number of jobs restored, 1 if the limit of the first queue is reached or 0}.
local most, soon = tonumber(take()), tonumber(take()) / 1000
local room = math.huge
if most > 0 then
    local queue = KEYS[1]
    -- Jobs that are due soon wait for a permit or for the provider. They count against the limit like due jobs.
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
