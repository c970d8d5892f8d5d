-- Makes the jobs of pending notifications due, even dead letters. A job that the queue does not hold is added.
-- KEYS[1] queue
-- ARGV, for each job:
--   id
--   payload
-- Returns for each job `replayed` if it was a dead letter, `hastened` if it was scheduled, `under-way` if it was due or
--   claimed already, or `added` if no queue held it.
local queue = KEYS[1]

local function resend(id, payload)
    if redis.call('SMISMEMBER', queue .. ':dead', id)[1] == 1 then
        redis.call('SREM', queue .. ':dead', id)
        redis.call('DEL', queue .. ':meta:' .. id)
        redis.call('HSET', queue .. ':data', id, payload)
        schedule(queue, id, 0)
        return 'replayed'
    elseif redis.call('ZREM', queue .. ':scheduled', id) == 1 then
        schedule(queue, id, 0)
        return 'hastened'
    elseif push(queue, id, payload, 0) == 1 then
        return 'added'
    end
    return 'under-way'
end

local results = {}
while at < #ARGV do
    local id = take()
    results[#results + 1] = resend(id, take())
end
place()
return results
