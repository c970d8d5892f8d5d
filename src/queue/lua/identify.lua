-- Gives jobs that were just claimed the ids that their payloads ask for: a program on apalis-redis pushes them under
-- ids of its own, and an order must not be tracked twice. They are due again under those ids; one that is in a queue
-- already is dropped. A dead letter does not count and goes, as for a message of the inbox.
-- KEYS[1] queue   KEYS[2..] other queues in which the same job may be
-- ARGV: worker, then for each job: the id it has, the id it is to have
-- Returns the number of jobs that were dropped
local queue, inflight = KEYS[1], KEYS[1] .. ':inflight:' .. take()

local function is_followed(id)
    for n = 1, #KEYS do
        if redis.call('HEXISTS', KEYS[n] .. ':data', id) == 1
            and redis.call('SMISMEMBER', KEYS[n] .. ':dead', id)[1] == 0 then
            return true
        end
    end
end

local dropped = 0
while at < #ARGV do
    local claimed, id = take(), take()
    if redis.call('SMISMEMBER', inflight, claimed)[1] == 1 then
        local payload = redis.call('HMGET', queue .. ':data', claimed)[1]
        if is_followed(id) then
            dropped = dropped + 1
        else
            -- The first write, and one that a server which is full refuses.
            redis.call('HSET', queue .. ':data', id, payload)
            redis.call('SREM', queue .. ':dead', id)
            redis.call('DEL', queue .. ':meta:' .. id)
            for n = 2, #KEYS do
                forget_dead_letter(KEYS[n], id)
            end
            schedule(queue, id, 0)
        end
        redis.call('SREM', inflight, claimed)
        redis.call('HDEL', queue .. ':data', claimed)
        redis.call('DEL', queue .. ':meta:' .. claimed)
    end
end
place()
return dropped
