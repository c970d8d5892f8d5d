-- Shared by the scripts that move jobs: the layout of a queue, and how a job enters one.
-- `queue` is the name of an apalis queue, `{topup}:poll-topup`; all its keys begin with it.

-- A due time says two things. Its whole milliseconds are the time at which the job is due; the microseconds behind
-- them say how long the job was meant to wait at most: that power of 1.025, in ms. So a job that lies further ahead
-- than it was ever meant to wait is known, whatever the clock of Redis has done since. Due times of other programs
-- have no microseconds.
local WAIT_BASE, LONGEST_POWER = 1.025, 999
local function due_in(delay_ms)
    local power = math.ceil(math.log(delay_ms) / math.log(WAIT_BASE))
    local due_ms = math.floor(now() * 1000 + delay_ms + 0.5)
    return (due_ms * 1000 + math.min(math.max(power, 1), LONGEST_POWER)) / 1000000
end

-- How long a job with this due time was meant to wait at most, in ms; nothing where that is not known.
local function meant_wait_ms(due)
    local power = math.floor(due * 1000000 + 0.5) % 1000
    return power > 0 and math.floor(WAIT_BASE ^ power) or nil
end

-- Jobs that a script makes due, by queue: ids in the order in which they run, and scores with ids.
local ready, waiting = {}, {}

local function list(of, queue)
    of[queue] = of[queue] or {}
    return of[queue]
end

-- Lets a job that has its payload in place run after `delay_ms`, once `place` is called.
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

-- Calls a command with a list of any length; a script cannot pass more than some thousand values at once.
local MAX_VALUES = 1000
local function call_with(command, key, values)
    for first = 1, #values, MAX_VALUES do
        redis.call(command, key, unpack(values, first, math.min(first + MAX_VALUES - 1, #values)))
    end
end

-- Puts the scheduled jobs in place and tells the workers of a queue where one is due earlier than they know.
local function place()
    local wake = {}
    for queue, ids in pairs(ready) do
        call_with('RPUSH', queue .. ':active', ids)
        wake[queue] = true
    end
    for queue, jobs in pairs(waiting) do
        call_with('ZADD', queue .. ':scheduled', jobs)
        -- By its time, not by its id: of jobs due at the same time any may stand first.
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

-- Gives a job that was claimed back to the head of its queue, and wakes the workers.
local function give_back(queue, id)
    redis.call('LPUSH', queue .. ':active', id)
    list(ready, queue)
end

-- Deletes a dead letter, and returns how many there were of that id.
local function forget_dead_letter(queue, id)
    local dead = redis.call('SREM', queue .. ':dead', id)
    if dead == 1 then
        redis.call('HDEL', queue .. ':data', id)
        redis.call('DEL', queue .. ':meta:' .. id)
    end
    return dead
end

-- Puts a job into a queue. One that is already there is left alone and 0 returned; a dead letter of the
-- same id is replaced. It may run once `place` is called.
local function push(queue, id, payload, delay_ms)
    forget_dead_letter(queue, id)
    if redis.call('HSETNX', queue .. ':data', id, payload) == 0 then
        return 0
    end
    schedule(queue, id, delay_ms)
    return 1
end

-- Takes a job out of sight of the workers; its payload stays for an operator to look at. Where the queue itself
-- decides that, rather than the handler, it is noted: the handler may still come to its end on a worker that was
-- taken for dead.
local function dead_letter(queue, id, reason, by_queue)
    local meta = queue .. ':meta:' .. id
    redis.call('SADD', queue .. ':dead', id)
    redis.pcall('HSET', meta, 'status', 'Killed', 'reason', reason, 'dead_at', now())
    if by_queue then
        redis.pcall('HSET', meta, 'dead_lettered_by', 'queue')
    end
end

-- The process that ran this job and no other has died: the job is due again, or dead-lettered as poison.
local function crashed(queue, id, most_crashes)
    local crashes = redis.pcall('HINCRBY', queue .. ':meta:' .. id, 'crashes', 1)
    if type(crashes) == 'number' and crashes >= most_crashes then
        dead_letter(queue, id, 'poison: the process that ran it died ' .. crashes .. ' times', true)
    else
        schedule(queue, id, 0)
    end
end

