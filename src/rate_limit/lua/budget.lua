-- Functions of the budget's and the list's scripts, behind the prelude: the keys of the provider's API, the breakers, and
-- the queues of orders that wait for a permit. The keys are listed in rate_limit/mod.rs.

-- How long a state that ends by itself, such as an open breaker, lasts on, in ms; 0 where there is none. Its value is how
-- long it was meant to last: its end is a time of the clock of Redis, which may have been set back since.
local function lasts_for(state)
    local left = redis.call('PTTL', state)
    if left <= 0 then
        return 0
    end
    local meant = tonumber(redis.call('GET', state))
    if left > meant then
        redis.call('PEXPIRE', state, meant)
        left = meant
    end
    return left
end

-- Begins such a state, or makes it last this long.
local function last_for(state, ms)
    redis.call('SET', state, ms, 'PX', ms)
end

-- Returns the number and the fingerprint of the key with which a worker asks. A refused key is left out. The first
-- verified key is taken, or the first one where none is verified. Returns nothing where all are refused. A key that stands in for
-- an earlier one counts as verified once it has known an order: it may be of the provider's other environment.
local function key_in_use(budget, keys)
    local first
    for number, key in ipairs(keys) do
        if lasts_for(budget .. ':refused:' .. key) == 0 then
            local knows = number == 1 or redis.call('EXISTS', budget .. ':knows:' .. key) == 1
            if knows and redis.call('EXISTS', budget .. ':verified:' .. key) == 1 then
                return number, key
            end
            first = first or number
        end
    end
    return first, first and keys[first]
end

-- How long the breaker before the provider, or the one before this key, stays open, in ms.
local function breaker_open_for(budget, key)
    return math.max(lasts_for(budget .. ':breaker'), lasts_for(budget .. ':breaker:' .. key))
end

-- Where a breaker is half-open for this key, one request at a time is made, the probe: its answer shows that the provider
-- is back, or that the key is good. Returns the name of the key that holds the probe, or nothing.
local function probe_of(budget, key)
    if redis.call('EXISTS', budget .. ':half-open') == 1 then
        return budget .. ':probe'
    elseif redis.call('EXISTS', budget .. ':verified:' .. key) == 0
        or redis.call('EXISTS', budget .. ':mistrust-rounds:' .. key) == 1 then
        return budget .. ':probe:' .. key
    end
end

-- Notes that this worker can check orders: the provider refuses neither its keys nor its address.
local ABLE_MS = 90000
local function note_able(budget, worker, now_ms)
    -- A process that runs one job for a worker has no name: it takes no other job.
    if worker == '' then
        return
    end
    redis.call('ZADD', budget .. ':able-workers', now_ms + ABLE_MS, worker)
end

-- When the next request with this key keeps an even pace (GCRA), in ms; never before `now_ms`. A time further ahead than
-- a window was written by a clock that has been set back since.
local function next_slot_of(budget, key, window, now_ms)
    local next_slot_at = tonumber(redis.call('GET', budget .. ':next-slot-at:' .. key) or '0')
    return next_slot_at > now_ms + window and now_ms or math.max(next_slot_at, now_ms)
end

-- Takes an order out of both queues: that of new orders, and the backlog.
local function leave_wait_queue(budget, id)
    redis.call('ZREM', budget .. ':waiting-new', id)
    redis.call('ZREM', budget .. ':waiting-backlog', id)
    redis.call('ZREM', budget .. ':eligible-at', id)
    redis.call('HDEL', budget .. ':waiting-since', id)
    redis.call('HDEL', budget .. ':created-at', id)
    redis.call('SREM', budget .. ':details-missing', id)
end

-- An order that has not come back this long after its time waits no more.
local GRACE_MS = 10000
local function gone_from_wait_queue(budget, now_ms)
    return redis.call('ZRANGEBYSCORE', budget .. ':eligible-at', '-inf', now_ms - GRACE_MS, 'LIMIT', 0, 100)
end

-- Takes those out of the queues. Where there are more than one call takes, the next call goes on.
local function tidy_wait_queue(budget, now_ms)
    for _, gone in ipairs(gone_from_wait_queue(budget, now_ms)) do
        leave_wait_queue(budget, gone)
    end
end
