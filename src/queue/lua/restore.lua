-- Puts back jobs that the store knows of and no queue holds; a dead letter counts as held.
-- KEYS: queues in which the same job may be   ARGV, for each job: queue, id, payload
-- Returns the number of jobs put back.
local restored = 0
for at = 1, #ARGV, 3 do
    local queue, id, payload = ARGV[at], ARGV[at + 1], ARGV[at + 2]
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
return restored
