-- Functions that put jobs into queues, prepended to all scripts that move jobs. `queue` is the name of an apalis queue
-- such as `{topup}:poll-topup`; the names of all keys of the queue begin with that name.

-- A due time holds two numbers. Its digits down to the millisecond are the time at which the job is due. The three
-- digits after them are an exponent p: the job was meant to wait at most 1.025 ^ p ms. If a job would have to wait
-- longer than that, the clock of Redis was moved back. In due times of other programs these three digits are 0.
local WAIT_BASE, LONGEST_POWER = 1.025, 999
local function due_in(delay_ms)
    local power = math.ceil(math.log(delay_ms) / math.log(WAIT_BASE))
    local due_ms = math.floor(now() * 1000 + delay_ms + 0.5)
    return (due_ms * 1000 + math.min(math.max(power, 1), LONGEST_POWER)) / 1000000
end

-- Reads from a due time (see above) how long its job was meant to wait at most, in ms; nil if another program set it.
local function meant_wait_ms(due)
    local power = math.floor(due * 1000000 + 0.5) % 1000
    return power > 0 and math.floor(WAIT_BASE ^ power) or nil
end

-- Jobs that `place` will enqueue, by queue: `ready` lists the ids of due jobs; `waiting` alternates due times and ids.
local ready, waiting = {}, {}

local function list(of, queue)
    of[queue] = of[queue] or {}
    return of[queue]
end

-- Schedules a job to run after `delay_ms`. The next call of `place` enqueues it. Its payload must be stored already.
local function schedule(queue, id, delay_ms)
    if delay_ms <= 0 then
        table.insert(list(ready, queue), id)
    else
        local jobs = list(waiting, queue)
        jobs[#jobs + 1] = due_in(delay_ms)
        jobs[#jobs + 1] = id
        jobs.first_due = math.min(jobs.first_due or math.huge, jobs[#jobs - 1])
    end
end

-- Calls a command with a list of any length, in parts, because Lua cannot pass more than some thousand values at once.
local MAX_VALUES = 1000
local function call_with(command, key, values)
    for first = 1, #values, MAX_VALUES do
        redis.call(command, key, unpack(values, first, math.min(first + MAX_VALUES - 1, #values)))
    end
end

-- Puts the jobs in `ready` and `waiting` into their queues. Wakes a queue's workers if one of these jobs is due next.
local function place()
    local wake = {}
    for queue, ids in pairs(ready) do
        call_with('RPUSH', queue .. ':active', ids)
        wake[queue] = true
    end
    for queue, jobs in pairs(waiting) do
        call_with('ZADD', queue .. ':scheduled', jobs)
        -- The head may be another job with the same due time as a new one, so due times are compared, not ids.
        local head = redis.call('ZRANGE', queue .. ':scheduled', 0, 0, 'WITHSCORES')
        if tonumber(head[2]) >= jobs.first_due then
            wake[queue] = true
        end
    end
    for queue in pairs(wake) do
        redis.call('PUBLISH', queue .. ':wake', '')
    end
    ready, waiting = {}, {}
end

-- Returns a claimed job to the head of its queue. The empty list put into `ready` makes `place` wake the workers.
local function give_back(queue, id)
    redis.call('LPUSH', queue .. ':active', id)
    list(ready, queue)
end

-- Deletes a dead letter. Returns 1, or 0 if there was no dead letter of that id.
local function forget_dead_letter(queue, id)
    local dead = redis.call('SREM', queue .. ':dead', id)
    if dead == 1 then
        redis.call('HDEL', queue .. ':data', id)
        redis.call('DEL', queue .. ':meta:' .. id)
    end
    return dead
end

-- Adds a job to a queue and deletes a dead letter of the same id. The job can run once `place` is called. Returns 1, or
-- 0 if the queue already holds a job of this id, which then stays unchanged.
local function push(queue, id, payload, delay_ms)
    forget_dead_letter(queue, id)
    if redis.call('HSETNX', queue .. ':data', id, payload) == 0 then
        return 0
    end
    schedule(queue, id, delay_ms)
    return 1
end

-- Makes a job a dead letter and keeps its payload. `by_queue` is true if the queue decided that, not the handler. Then
-- the handler may still run on a worker that was presumed dead, and settle.lua lets it complete the job after all.
local function dead_letter(queue, id, reason, by_queue)
    local meta = queue .. ':meta:' .. id
    redis.call('SADD', queue .. ':dead', id)
    redis.pcall('HSET', meta, 'status', 'Killed', 'reason', reason, 'dead_at', now())
    if by_queue then
        redis.pcall('HSET', meta, 'dead_lettered_by', 'queue')
    end
end

-- Counts a crash: the death of a process that ran only this job. At `most_crashes` the job becomes a dead letter.
local function crashed(queue, id, most_crashes)
    local crashes = redis.pcall('HINCRBY', queue .. ':meta:' .. id, 'crashes', 1)
    if type(crashes) == 'number' and crashes >= most_crashes then
        dead_letter(queue, id, 'poison: the process that ran it died ' .. crashes .. ' times', true)
    else
        schedule(queue, id, 0)
    end
end

