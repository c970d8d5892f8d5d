-- Gives newly claimed jobs the ids that their payloads require. A program that pushes jobs by apalis-redis chooses
-- other ids, so the same order could be tracked twice. A renamed job goes back to its queue, due at once, and replaces
-- a dead letter of the required id. If a queue already has that id's job to run, the claimed job is dropped.
-- KEYS[1]   queue
-- KEYS[2..] other queues in which the same job may be
-- ARGV[1]   worker
-- ARGV, then for each job:
--   current id
--   required id
-- Returns the number of jobs dropped.
local queue, inflight = KEYS[1], KEYS[1] .. ':inflight:' .. take()

local function is_tracked(id)
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
        if is_tracked(id) then
            dropped = dropped + 1
        else
            -- If the memory of Redis is full, this first write fails before anything is removed.
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
