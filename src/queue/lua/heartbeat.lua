-- Renews the registration of a worker process in all its queues, and reads which of these queues have work.
-- KEYS[1..] queues
-- ARGV[1]   lease in ms
-- ARGV[2]   longest time until the next report in ms
-- ARGV[3]   1 if the clock of Redis may have been changed
-- ARGV, then for each queue:
--   name of the worker in this queue
--   1 if the worker holds jobs of this queue
-- Returns {ms since 1970, {for each queue {jobs in flight, ms until the next job or -1, ms until a lease expires}}}.
--   The number of jobs in flight is -1 if the worker holds jobs but was presumed dead. It is 0 for a worker without
--   jobs: even if that was presumed dead, it had no job to lose and is simply registered again.
--   The last number is 0 if a lease has expired, and -1 if no lease of a worker with jobs expires before the next report.
local lease, pause, clock_was_set = tonumber(take()) / 1000, tonumber(take()) / 1000, take() == '1'
local results, lists, sets = {}, {}, {}
for n, queue in ipairs(KEYS) do
    lists[n], sets[n] = queue .. ':active', queue .. ':scheduled'
end
-- Usually no job is due and often none is scheduled. Then two EXISTS save reading each queue.
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
        -- A dead worker whose last report is dated in the future would seem alive until then. So the report is redated.
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
    local expires = -1
    local late = redis.call('ZRANGEBYSCORE', workers, '-inf', now() - lease + pause, 'WITHSCORES', 'LIMIT', 0, 8)
    for m = 1, #late, 2 do
        local left = math.max(0, math.ceil((late[m + 1] + lease - now()) * 1000))
        if left == 0 or redis.call('SCARD', queue .. ':inflight:' .. late[m]) > 0 then
            expires = left
            break
        end
    end
    results[n] = { held, next_due, expires }
end
return { math.floor(now() * 1000 + 0.5), results }
