-- Claims as many due jobs as the worker has free slots, and renews the worker's lease.
-- KEYS[1] queue
-- ARGV[1] worker
-- ARGV[2] number of free slots
-- ARGV[3] 1 if the worker already holds jobs
-- Returns nil if the worker holds jobs but is no longer registered, otherwise {ms until the next scheduled job or -1,
--   number of due jobs not claimed, ids, payloads, counts}. The counts are four numbers for each job: attempts, faults,
--   crashes, and 1 for a suspect or 0. The list of counts is empty if no job has a history.
local queue = KEYS[1]
local worker, limit = ARGV[1], tonumber(ARGV[2])
local workers, active, scheduled = queue .. ':workers', queue .. ':active', queue .. ':scheduled'

if ARGV[3] == '1' and not redis.call('ZSCORE', workers, worker) then
    return nil
end

-- If the memory of Redis is full, this first write fails, and no job is claimed. Settling a job would fail, too.
redis.call('ZADD', workers, now(), worker)

-- Moves due jobs to `active`, at most `limit` of them to bound the work of one call. Jobs are moved even if `active` is
-- long, so that a stream of new jobs cannot hold back scheduled jobs.
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now(), 'LIMIT', 0, limit)
if #due > 0 then
    redis.call('RPUSH', active, unpack(due))
    -- These jobs have the lowest ranks, and removal by rank needs no search for each id.
    redis.call('ZREMRANGEBYRANK', scheduled, 0, #due - 1)
end

local ids, payloads, counts = {}, {}, {}
local popped = redis.call('LPOP', active, limit) or {}
if #popped > 0 then
    local inflight = queue .. ':inflight:' .. worker
    -- An id that another program pushed twice is claimed once.
    local metas, seen = {}, {}
    for n, held in ipairs(redis.call('SMISMEMBER', inflight, unpack(popped))) do
        local id = popped[n]
        if held == 0 and not seen[id] then
            seen[id] = true
            ids[#ids + 1] = id
            metas[#metas + 1] = queue .. ':meta:' .. id
        end
    end
    if #ids > 0 then
        redis.call('SADD', inflight, unpack(ids))
        payloads = redis.call('HMGET', queue .. ':data', unpack(ids))
        -- Most jobs have no history, so one EXISTS usually replaces the reads of all histories.
        if redis.call('EXISTS', unpack(metas)) > 0 then
            for n, meta in ipairs(metas) do
                local history = redis.pcall('HMGET', meta, 'attempts', 'faults', 'crashes', 'lost_with')
                for count = 1, 3 do
                    counts[#counts + 1] = history[count] or '0'
                end
                counts[#counts + 1] = history[4] and '1' or '0'
            end
        end
    end
end

local next_due_ms = -1
local head = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
if head[2] then
    next_due_ms = math.max(0, math.ceil((tonumber(head[2]) - now()) * 1000))
end
return { next_due_ms, redis.call('LLEN', active), ids, payloads, counts }
