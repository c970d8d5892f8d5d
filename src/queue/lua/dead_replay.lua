-- Replays a dead letter as a new job, without its history.
-- KEYS[1]   queue
-- KEYS[2..] other queues in which the same job may be
-- ARGV[1]   id
-- ARGV[2]   new payload (empty: the old one stays)
-- Returns `replayed`, `gone` if the job is not a dead letter, or `tracked` if another queue holds the job.
local queue, id, payload = KEYS[1], take(), take()
if redis.call('SMISMEMBER', queue .. ':dead', id)[1] == 0 then
    return 'gone'
end
for n = 2, #KEYS do
    forget_dead_letter(KEYS[n], id)
    if redis.call('HEXISTS', KEYS[n] .. ':data', id) == 1 then
        return 'tracked'
    end
end
redis.call('SREM', queue .. ':dead', id)
redis.call('DEL', queue .. ':meta:' .. id)
if payload ~= '' then
    redis.call('HSET', queue .. ':data', id, payload)
end
schedule(queue, id, 0)
place()
return 'replayed'
