-- Has a dead letter run again, as a job to which nothing has happened yet.
-- KEYS[1] queue   KEYS[2..] other queues in which the same job may be
-- ARGV: id, payload that it carries from now on (empty: the one it has)
-- Returns `replayed`, `gone` where it is no dead letter, or `tracked` where another queue has the job at work
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
