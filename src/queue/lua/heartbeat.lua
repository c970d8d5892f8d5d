-- Reports that a worker process lives, in all its queues, and looks what there is to do in them.
-- KEYS queues   ARGV: lease in ms, 1 if the clock of Redis may have been set, then for each queue: worker, 1 if it
--   holds jobs there
-- Returns {ms since 1970, {for each queue {jobs in flight, ms until the next job is due or -1, 1 if a lease has run
-- out}}}. Jobs in flight are -1 for a worker that holds jobs and was taken for dead meanwhile. A worker that holds
-- none is counted as 0 and registered again whatever happened: nothing of it can have been taken.
local lease, clock_was_set = tonumber(take()) / 1000, take() == '1'
local results, lists, sets = {}, {}, {}
for n, queue in ipairs(KEYS) do
    lists[n], sets[n] = queue .. ':active', queue .. ':scheduled'
end
-- Most often nothing is due anywhere, and often nothing waits; one question each tells so for all queues.
local some_due = redis.call('EXISTS', unpack(lists)) > 0
local some_wait = redis.call('EXISTS', unpack(sets)) > 0
for n, queue in ipairs(KEYS) do
    local worker, holds = take(), take() == '1'
    local workers = queue .. ':workers'
    local held = 0
    if holds then
        held = redis.call('ZSCORE', workers, worker) and redis.call('SCARD', queue .. ':inflight:' .. worker) or -1
    end
    if held >= 0 then
        redis.call('ZADD', workers, now(), worker)
    end
    if clock_was_set then
        -- A worker that reported by a clock that was ahead, and died, would be waited for until then.
        for _, other in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. now(), '+inf', 'LIMIT', 0, 1000)) do
            redis.call('ZADD', workers, now(), other)
        end
    end
    local next_due = -1
    if some_due and redis.call('EXISTS', lists[n]) == 1 then
        next_due = 0
    elseif some_wait then
        local head = redis.call('ZRANGE', sets[n], 0, 0, 'WITHSCORES')
        if head[2] then
            next_due = math.max(0, math.ceil((tonumber(head[2]) - now()) * 1000))
        end
    end
    local expired = redis.call('ZRANGEBYSCORE', workers, '-inf', now() - lease, 'LIMIT', 0, 1)
    results[n] = { held, next_due, #expired }
end
return { math.floor(now() * 1000 + 0.5), results }
