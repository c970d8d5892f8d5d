-- Settles a batch of jobs, each in full: its end and whatever follows from it, in one step. What follows is
-- put in place before the jobs are taken away, so that an error halfway leaves them where they were.
-- KEYS[1] queue   KEYS[2] the last batch of this consumer
-- ARGV: number of the batch, worker, crashes that make a job poison, number of jobs that are finished and have nothing
--   that follows, their ids, then for each other job:
--   id, action, delay in ms, reason, payload that it carries from now on (empty: the one it has),
--   number of jobs that follow, then for each: queue, id, payload, delay in ms
-- Returns of how many settlements nothing was done: another worker owns the job by now, or it stands here twice. A batch
-- that was settled already, because its answer was lost and it was sent again, or because it came late on a connection
-- that was left, has none. A job that the queue has dead-lettered meanwhile, and that its handler finished all the same, is
-- finished: it is no dead letter any more, and what follows from it follows.
local queue, last_batch = KEYS[1], KEYS[2]
local data = queue .. ':data'
local LAST_BATCH_KEPT_SECONDS = 3600

local batch, worker, most_crashes = take(), take(), tonumber(take())
if tonumber(redis.call('GET', last_batch) or '0') >= tonumber(batch) then
    return 0
end
local inflight = queue .. ':inflight:' .. worker

-- Of what is only finished there is nothing but the id.
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

-- Puts in place what follows. Returns whether that takes the place of the job itself. A job of this batch that
-- is finished has its payload until the end; it is not in the queue any more, and what follows may take its place.
local function follow(job)
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
    local replaced = follow(job)
    if action == 'complete' then
        finish(id, replaced)
        return
    end
    if job.payload ~= '' then
        redis.call('HSET', data, id, job.payload)
    end
    if action == 'dead-letter' or action == 'poison' then
        dead_letter(queue, id, job.reason, action == 'poison')
    elseif action == 'release' then
        give_back(queue, id)
    elseif action == 'fault' then
        redis.pcall('HINCRBY', meta, 'faults', 1)
        redis.pcall('HSET', meta, 'last_error', job.reason)
        schedule(queue, id, job.delay_ms)
    elseif action == 'crash' then
        crashed(queue, id, most_crashes)
    else
        -- A job that waits did not come to its work: that says nothing about what it does to its process.
        if action == 'retry' then
            redis.pcall('HDEL', meta, 'crashes', 'faults', 'lost_with')
            redis.pcall('HINCRBY', meta, 'attempts', 1)
            redis.pcall('HSET', meta, 'last_error', job.reason)
        end
        schedule(queue, id, job.delay_ms)
    end
end

-- Whether a job that is not owned any more was dead-lettered by the queue itself, and its handler has finished it after all.
local function completed_after_all(n, id)
    local finishes = not jobs[n] or jobs[n].action == 'complete'
    local dead_lettered_by = finishes and redis.call('SMISMEMBER', queue .. ':dead', id)[1] == 1
        and redis.pcall('HMGET', queue .. ':meta:' .. id, 'dead_lettered_by')[1]
    return dead_lettered_by == 'queue' and redis.call('SREM', queue .. ':dead', id) == 1
end

-- After Redis came back with older data a worker may have claimed a job twice; one settlement ends both.
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
