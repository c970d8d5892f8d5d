-- Shared by every script: the layout of a queue, the clock, and how a job enters a queue.
-- `queue` is the name of an apalis queue, `{topup}:poll-topup`; all its keys begin with it, and all keys
-- of the project carry the same hash tag, so a script never leaves its slot.

local unpack = unpack

-- The next argument, for scripts that read them one by one; `at` is the last one read.
local at = 0
local function take()
    at = at + 1
    return ARGV[at]
end

-- Seconds since 1970 by the clock of Redis, to the millisecond. Hosts need not agree on the time. It stands
-- still while a script runs, so it is asked once.
local asked
local function now()
    if not asked then
        local time = redis.call('TIME')
        asked = tonumber(time[1]) + math.floor(tonumber(time[2]) / 1000) / 1000
    end
    return asked
end

-- The next arguments: their number, then each of them.
local function take_list()
    local list = {}
    for n = 1, tonumber(take()) do
        list[n] = take()
    end
    return list
end

-- The bytes of the names and values of a message together.
local function size_of(fields)
    local bytes = 0
    for _, part in ipairs(fields) do
        bytes = bytes + #part
    end
    return bytes
end

-- How long a closure, or another state that ends by itself, lasts on, in ms; 0 where there is none. Its value is how
-- long it was meant to last, since its end is a time of the clock of Redis, which may have been set back since.
local function closed_for(closure)
    local left = redis.call('PTTL', closure)
    if left <= 0 then
        return 0
    end
    local meant = tonumber(redis.call('GET', closure))
    if left > meant then
        redis.call('PEXPIRE', closure, meant)
        left = meant
    end
    return left
end

-- Begins a closure, or makes it last this long.
local function close_for(closure, ms)
    redis.call('SET', closure, ms, 'PX', ms)
end

-- Which of a worker's keys to ask with, by its number in the list and its fingerprint: of those that the provider does
-- not refuse the first one that is verified, otherwise the first. Nothing where all are refused. A key that stands in for
-- an earlier one counts as verified once it has known an order: it may be of the provider's other environment.
local function key_in_use(budget, keys)
    local first
    for number, key in ipairs(keys) do
        if closed_for(budget .. ':refused:' .. key) == 0 then
            local knows = number == 1 or redis.call('EXISTS', budget .. ':knows:' .. key) == 1
            if knows and redis.call('EXISTS', budget .. ':verified:' .. key) == 1 then
                return number, key
            end
            first = first or number
        end
    end
    return first, first and keys[first]
end

-- How long no order may be checked with this key, in ms: because of the provider or because of the key.
local function breaker_open_for(budget, key)
    return math.max(closed_for(budget .. ':gate'), closed_for(budget .. ':gate:' .. key))
end

-- Whether one request at a time is made with this key, since the answer to it is to show something first: that the
-- provider is back, or that the key is good. Returns the name under which that request is known, the probe.
local function probe_of(budget, key)
    if redis.call('EXISTS', budget .. ':half-open') == 1 then
        return budget .. ':probe'
    elseif redis.call('EXISTS', budget .. ':verified:' .. key) == 0
        or redis.call('EXISTS', budget .. ':doubts:' .. key) == 1 then
        return budget .. ':probe:' .. key
    end
end

-- Remembers that this worker can check orders: neither its keys nor its address are refused.
local ABLE_MS = 90000
local function note_able(budget, worker, now_ms)
    -- A process that runs one job for a worker has no name: it is not there for the next one.
    if worker == '' then
        return
    end
    redis.call('ZADD', budget .. ':able', now_ms + ABLE_MS, worker)
end

-- Until when the requests made so far use up the pace of a key, in ms; never before `now_ms`. What lies further ahead
-- than it can was written by a clock that has been set back since.
local function paced_until(budget, key, window, now_ms)
    local paced = tonumber(redis.call('GET', budget .. ':paced:' .. key) or '0')
    return paced > now_ms + window and now_ms or math.max(paced, now_ms)
end

-- Takes an order out of both lines for a request: that of new orders, and the backlog.
local function leave_line(budget, id)
    redis.call('ZREM', budget .. ':waiting', id)
    redis.call('ZREM', budget .. ':backlog', id)
    redis.call('ZREM', budget .. ':promised', id)
    redis.call('HDEL', budget .. ':since', id)
    redis.call('HDEL', budget .. ':tracked', id)
    redis.call('SREM', budget .. ':ready', id)
end

-- One that has not come back so long after its time waits no more.
local GRACE_MS = 10000
local function gone_from_line(budget, now_ms)
    return redis.call('ZRANGEBYSCORE', budget .. ':promised', '-inf', now_ms - GRACE_MS, 'LIMIT', 0, 100)
end

-- Gives up the places of those. What is left over is for the next one to tidy.
local function tidy_line(budget, now_ms)
    for _, gone in ipairs(gone_from_line(budget, now_ms)) do
        leave_line(budget, gone)
    end
end

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
local MOST_VALUES = 1000
local function call_with(command, key, values)
    for first = 1, #values, MOST_VALUES do
        redis.call(command, key, unpack(values, first, math.min(first + MOST_VALUES - 1, #values)))
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

-- Gives a job that was claimed back to the head of its queue, and calls for somebody to take it.
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
local function bury(queue, id, reason, by_queue)
    local meta = queue .. ':meta:' .. id
    redis.call('SADD', queue .. ':dead', id)
    redis.pcall('HSET', meta, 'status', 'Killed', 'reason', reason, 'dead_at', now())
    if by_queue then
        redis.pcall('HSET', meta, 'buried_by', 'queue')
    end
end

-- The process that ran this job and no other has died: the job is due again, or buried as poison.
local function crashed(queue, id, most_crashes)
    local crashes = redis.pcall('HINCRBY', queue .. ':meta:' .. id, 'crashes', 1)
    if type(crashes) == 'number' and crashes >= most_crashes then
        bury(queue, id, 'poison: the process that ran it died ' .. crashes .. ' times', true)
    else
        schedule(queue, id, 0)
    end
end
