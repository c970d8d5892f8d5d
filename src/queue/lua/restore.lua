-- Puts back jobs that the store knows of and no queue holds; a dead letter counts as held.
-- KEYS: queues in which the same job may be   ARGV: most jobs that may wait in the first of these queues (0: any number),
--   key of the line in which such jobs wait too; then for each job: queue, id, payload
-- Returns {number of jobs put back, 1 if there was no room for more}
local most, line = tonumber(take()), take()
local room = math.huge
if most > 0 then
    local queue = KEYS[1]
    local due = redis.call('ZRANGEBYSCORE', queue .. ':scheduled', '-inf', now(), 'LIMIT', 0, most)
    room = most - #due - redis.call('LLEN', queue .. ':active') - redis.call('ZCARD', line)
end
local restored = 0
while at < #ARGV and restored < room do
    local queue, id, payload = take(), take(), take()
    local held = redis.call('HEXISTS', queue .. ':data', id) == 1
    for other = 1, #KEYS do
        held = held or redis.call('HEXISTS', KEYS[other] .. ':data', id) == 1
    end
    if not held then
        push(queue, id, payload, 0)
        restored = restored + 1
    end
end
place()
return { restored, restored < room and 0 or 1 }
