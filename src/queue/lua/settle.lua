-- Settles a batch of jobs, each in full: its end and whatever follows from it, in one step. What follows is
-- put in place before the job is taken away, so that an error halfway leaves the job where it was.
-- KEYS[1] queue   KEYS[2] the last batch of this consumer
-- ARGV: number of the batch, then for each job: worker, id, action, delay in ms, reason,
--   payload that it carries from now on (empty: the one it has),
--   number of jobs that follow, then for each: queue, id, payload, delay in ms
-- Returns for each job 1, or 0 where another worker owns it by now; then nothing of it is done. Returns {}
-- for a batch that was settled already: its answer was lost and it was sent again.
local queue, last_batch = KEYS[1], KEYS[2]
local LAST_BATCH_KEPT_SECONDS = 3600
local batch = take()
if redis.call('GET', last_batch) == batch then
    return {}
end

local results = {}
while at < #ARGV do
    local worker, id, action, delay_ms, reason, payload = take(), take(), take(), tonumber(take()), take(), take()
    local inflight, data, meta = queue .. ':inflight:' .. worker, queue .. ':data', queue .. ':meta:' .. id
    local owned = redis.call('SISMEMBER', inflight, id) == 1

    local replaced = false
    for _ = 1, tonumber(take()) do
        local next_queue, next_id, next_payload, next_delay_ms = take(), take(), take(), tonumber(take())
        if owned and next_queue == queue and next_id == id then
            -- The job that follows takes the place of this one.
            redis.call('HSET', data, id, next_payload)
            schedule(queue, id, next_delay_ms)
            replaced = true
        elseif owned then
            push(next_queue, next_id, next_payload, next_delay_ms)
        end
    end

    if owned then
        if payload ~= '' then
            redis.call('HSET', data, id, payload)
        end
        if action == 'bury' then
            bury(queue, id, reason)
        elseif action == 'release' then
            redis.call('LPUSH', queue .. ':active', id)
            wake(queue)
        elseif action == 'fault' then
            redis.pcall('HINCRBY', meta, 'faults', 1)
            redis.pcall('HSET', meta, 'last_error', reason)
            schedule(queue, id, delay_ms)
        elseif action ~= 'finish' then
            redis.pcall('HDEL', meta, 'crashes', 'faults')
            if action == 'retry' then
                redis.pcall('HINCRBY', meta, 'attempts', 1)
                redis.pcall('HSET', meta, 'last_error', reason)
            end
            schedule(queue, id, delay_ms)
        elseif not replaced then
            redis.call('HDEL', data, id)
        end
        if action == 'finish' then
            redis.call('DEL', meta)
        end
        redis.call('SREM', inflight, id)
    end
    results[#results + 1] = owned and 1 or 0
end
redis.call('SET', last_batch, batch, 'EX', LAST_BATCH_KEPT_SECONDS)
return results
