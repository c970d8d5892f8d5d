-- Claims at most as many jobs as the worker has free slots, and renews its lease with them.
-- KEYS[1] queue   ARGV: worker, limit, 1 if the worker holds jobs already
-- Returns nil for a worker that holds jobs and has lost its registration, otherwise
-- {milliseconds until the next scheduled job or -1, jobs still waiting, ids, payloads,
--   attempts, faults and crashes of each job and 1 for a suspect; nothing where none of them has a history}
local queue = KEYS[1]
local worker, limit = ARGV[1], tonumber(ARGV[2])
local workers, active, scheduled = queue .. ':workers', queue .. ':active', queue .. ':scheduled'

if ARGV[3] == '1' and not redis.call('ZSCORE', workers, worker) then
    return nil
end

-- The first write, and one that a server which is full refuses: nothing is claimed that could not be settled.
redis.call('ZADD', workers, now(), worker)

-- Promotion is capped: whatever the backlog, one call does a bounded amount of work. It is done even
-- while the list is long, so that a stream of fresh jobs cannot hold back those that were scheduled.
local due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now(), 'LIMIT', 0, limit)
if #due > 0 then
    redis.call('RPUSH', active, unpack(due))
    -- They are the first ones: taking them away by rank spares a search for each.
    redis.call('ZREMRANGEBYRANK', scheduled, 0, #due - 1)
end

local ids, payloads, counts = {}, {}, {}
local popped = redis.call('LPOP', active, limit) or {}
if #popped > 0 then
    local inflight = queue .. ':inflight:' .. worker
    -- An id that a foreign program pushed twice is claimed once.
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
        -- Most jobs have no history; one question tells so for all of them.
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
