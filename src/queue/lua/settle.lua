-- Settles a batch of jobs in one step: applies the result of each job and enqueues the jobs that follow it. The settled
-- jobs leave the worker's in-flight set last, so that a script that fails halfway loses no job.
-- KEYS[1] queue
-- KEYS[2] number of the last batch that this consumer settled
-- ARGV[1] number of this batch
-- ARGV[2] worker
-- ARGV[3] number of crashes after which a job becomes a dead letter
-- ARGV[4] number of jobs that are complete and have no following job
-- ARGV, then the id of each complete job without following jobs, then for each other job:
--   id
--   action: `complete`, `snooze`, `retry`, `fault`, `crash`, `release`, `dead-letter` or `condemned` (too many faults)
--   delay in ms
--   reason
--   new payload (empty: the old one stays)
--   number of following jobs, then for each:
--     queue
--     id
--     payload
--     delay in ms
-- Returns the number of dropped settlements. A settlement is dropped if another worker owns the job by now, or if the
--   batch holds the job twice. A batch that was applied before is ignored, and 0 is returned: the worker sent it again
--   because the answer was lost, or an old connection delivered it late.
local queue, last_batch = KEYS[1], KEYS[2]
local data = queue .. ':data'
local LAST_BATCH_KEPT_SECONDS = 3600

local batch, worker, most_crashes = take(), take(), tonumber(take())
if tonumber(redis.call('GET', last_batch) or '0') >= tonumber(batch) then
    return 0
end
local inflight = queue .. ':inflight:' .. worker

-- `jobs[n]` holds the arguments of the job `ids[n]`, or nil if that job is complete and has no following job.
local jobs, ids = {}, {}
for n = 1, tonumber(take()) do
    ids[n] = take()
end
while at < #ARGV do
    local job = { id = take(), action = take(), delay_ms = tonumber(take()), reason = take(), payload = take() }
    local next_jobs = tonumber(take())
    if next_jobs > 0 then
        job.next = {}
        for n = 1, next_jobs do
            job.next[n] = { queue = take(), id = take(), payload = take(), delay_ms = tonumber(take()) }
        end
    end
    ids[#ids + 1] = job.id
    jobs[#ids] = job
end

local owned = redis.call('SMISMEMBER', inflight, unpack(ids))
local settled, finished, histories = {}, {}, {}

local function finish(id, replaced)
    if not replaced then
        finished[id] = true
    end
    histories[#histories + 1] = queue .. ':meta:' .. id
end

-- Enqueues the jobs that follow a job. Returns whether one of them has the job's own id and so replaces the job. `push`
-- refuses an id with a stored payload, so it is not used for that id, nor for the id of a job this batch has completed.
local function enqueue_following(job)
    local replaced = false
    for _, following in ipairs(job.next or {}) do
        local itself = following.queue == queue and following.id == job.id
        if itself or following.queue == queue and finished[following.id] then
            redis.call('HSET', data, following.id, following.payload)
            schedule(queue, following.id, following.delay_ms)
            finished[following.id] = nil
            replaced = replaced or itself
        else
            push(following.queue, following.id, following.payload, following.delay_ms)
        end
    end
    return replaced
end

local function settle(job)
    local id, action, meta = job.id, job.action, queue .. ':meta:' .. job.id
    local replaced = enqueue_following(job)
    if action == 'complete' then
        finish(id, replaced)
        return
    end
    if job.payload ~= '' then
        redis.call('HSET', data, id, job.payload)
    end
    if action == 'dead-letter' or action == 'condemned' then
        dead_letter(queue, id, job.reason, action == 'condemned')
    elseif action == 'release' then
        give_back(queue, id)
    elseif action == 'fault' then
        redis.pcall('HINCRBY', meta, 'faults', 1)
        redis.pcall('HSET', meta, 'last_error', job.reason)
        schedule(queue, id, job.delay_ms)
    elseif action == 'crash' then
        crashed(queue, id, most_crashes)
    else
        -- After a retry, crashes and faults count from 0 again, as the handler did its work. A snooze keeps the counts.
        if action == 'retry' then
            redis.pcall('HDEL', meta, 'crashes', 'faults', 'lost_with')
            redis.pcall('HINCRBY', meta, 'attempts', 1)
            redis.pcall('HSET', meta, 'last_error', job.reason)
        end
        schedule(queue, id, job.delay_ms)
    end
end

-- Checks whether the handler has completed a job that the queue dead-lettered while the handler still ran. If so, takes
-- the job out of the dead letters and returns true, so that the job counts as complete.
local function completed_after_all(n, id)
    local finishes = not jobs[n] or jobs[n].action == 'complete'
    local dead_lettered_by = finishes and redis.call('SMISMEMBER', queue .. ':dead', id)[1] == 1
        and redis.pcall('HMGET', queue .. ':meta:' .. id, 'dead_lettered_by')[1]
    return dead_lettered_by == 'queue' and redis.call('SREM', queue .. ':dead', id) == 1
end

-- If Redis loses its latest writes, a worker may claim a job twice. The first settlement then ends both claims.
local ended, lost = {}, 0
for n, id in ipairs(ids) do
    if ended[id] or (owned[n] == 0 and not completed_after_all(n, id)) then
        lost = lost + 1
    else
        ended[id] = true
        settled[#settled + 1] = id
        if jobs[n] then
            settle(jobs[n])
        else
            finish(id, false)
        end
    end
end
place()
local gone = {}
for id in pairs(finished) do
    gone[#gone + 1] = id
end
if #gone > 0 then
    redis.call('HDEL', data, unpack(gone))
end
if #histories > 0 then
    redis.call('DEL', unpack(histories))
end
if #settled > 0 then
    redis.call('SREM', inflight, unpack(settled))
end
redis.call('SET', last_batch, batch, 'EX', LAST_BATCH_KEPT_SECONDS)
return lost
