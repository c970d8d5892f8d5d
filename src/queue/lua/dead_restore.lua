-- Restores dead letters that are in the database but in no queue.
-- KEYS[1..] queues in which the same job may be
-- ARGV, for each dead letter:
--   queue
--   id
--   payload
--   reason
--   time when the job became a dead letter, in seconds since 1970 (empty: unknown)
--   failed attempts before that time
--   last error (empty: none)
-- Returns for each dead letter 1 if it was restored, or 0 if a queue holds its job.
local function is_held(id)
    for n = 1, #KEYS do
        if redis.call('HEXISTS', KEYS[n] .. ':data', id) == 1 then
            return true
        end
    end
    return false
end

local results = {}
while at < #ARGV do
    local queue, id, payload = take(), take(), take()
    local history = { 'status', 'Killed', 'reason', take(), 'dead_at', take() }
    for _, name in ipairs({ 'attempts', 'last_error' }) do
        history[#history + 1] = name
        history[#history + 1] = take()
    end
    if is_held(id) then
        results[#results + 1] = 0
    else
        redis.call('HSET', queue .. ':data', id, payload)
        redis.call('SADD', queue .. ':dead', id)
        for n = 1, #history, 2 do
            if history[n + 1] ~= '' then
                redis.call('HSET', queue .. ':meta:' .. id, history[n], history[n + 1])
            end
        end
        results[#results + 1] = 1
    end
end
return results
