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

-- Seconds since 1970 by the clock of Redis, to the millisecond. Hosts need not agree on the time.
local function now()
    local time = redis.call('TIME')
    return tonumber(time[1]) + math.floor(tonumber(time[2]) / 1000) / 1000
end

-- Tells the workers that something became due earlier than they know of.
local function wake(queue)
    redis.call('PUBLISH', queue .. ':wake', '')
end

-- Lets a job that has its payload in place run after `delay_ms`.
local function schedule(queue, id, delay_ms)
    if delay_ms <= 0 then
        redis.call('RPUSH', queue .. ':active', id)
        wake(queue)
        return
    end
    local scheduled = queue .. ':scheduled'
    redis.call('ZADD', scheduled, now() + delay_ms / 1000, id)
    if redis.call('ZRANGE', scheduled, 0, 0)[1] == id then
        wake(queue)
    end
end

local function forget_dead_letter(queue, id)
    if redis.call('SREM', queue .. ':dead', id) == 1 then
        redis.call('HDEL', queue .. ':data', id)
        redis.call('DEL', queue .. ':meta:' .. id)
    end
end

-- Puts a job into a queue. One that is already there is left alone and 0 returned; a dead letter of the
-- same id is replaced.
local function push(queue, id, payload, delay_ms)
    forget_dead_letter(queue, id)
    if redis.call('HSETNX', queue .. ':data', id, payload) == 0 then
        return 0
    end
    schedule(queue, id, delay_ms)
    return 1
end

-- Takes a job out of sight of the workers; its payload stays for an operator to look at.
local function bury(queue, id, reason)
    redis.call('SADD', queue .. ':dead', id)
    redis.pcall('HSET', queue .. ':meta:' .. id, 'status', 'Killed', 'reason', reason, 'dead_at', now())
end
