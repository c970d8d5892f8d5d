-- Functions for API keys, breakers and wait queues. They are inserted after the prelude into each script of the budget
-- and of the list. rate_limit/mod.rs lists the keys in Redis.

-- Returns the remaining TTL, in ms, of a Redis key that marks a state, such as an open breaker; 0 if it does not exist.
-- The key's value is the full duration. If the clock of Redis was moved back, a longer TTL is cut to that duration.
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

-- Sets a Redis key that marks a state. The key exists for `ms`, and `lasts_for` reads it.
local function last_for(state, ms)
    redis.call('SET', state, ms, 'PX', ms)
end

-- Returns the number and the fingerprint of the API key that a worker uses: the first verified key, or else the first
-- key that is not refused. Returns nothing if all are refused. A secondary key counts as verified only once the
-- provider has answered for an order with it, because it may be of the other environment (sandbox or production).
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

-- Returns how long the provider's breaker or this key's breaker stays open, in ms; 0 if both are closed.
local function breaker_open_for(budget, key)
    return math.max(lasts_for(budget .. ':breaker'), lasts_for(budget .. ':breaker:' .. key))
end

-- While the breaker of the provider or of this API key is half-open, only one request is in flight, the probe. Its
-- answer shows whether the provider works, or the API key is valid. Returns the Redis key that holds the probe, or
-- nothing if none is needed. An API key that is not verified, or whose "not found" is not believed, needs one, too.
local function probe_of(budget, key)
    if redis.call('EXISTS', budget .. ':half-open') == 1 then
        return budget .. ':probe'
    elseif redis.call('EXISTS', budget .. ':verified:' .. key) == 0
        or redis.call('EXISTS', budget .. ':mistrust-rounds:' .. key) == 1 then
        return budget .. ':probe:' .. key
    end
end

-- Records for ABLE_MS that this worker can check orders. Workers that the provider refuses leave jobs to such a worker.
local ABLE_MS = 90000
local function note_able(budget, worker, now_ms)
    -- Empty for a process that runs only suspects (jobs whose worker died) or that knows that it cannot check orders.
    if worker == '' then
        return
    end
    redis.call('ZADD', budget .. ':able-workers', now_ms + ABLE_MS, worker)
end

-- Returns when the next request with this key may be sent at an even pace (GCRA), in ms: `now_ms` at the earliest.
-- If the stored time is more than a window ahead, the clock of Redis was moved back since; that time is then ignored.
local function next_slot_of(budget, key, window, now_ms)
    local next_slot_at = tonumber(redis.call('GET', budget .. ':next-slot-at:' .. key) or '0')
    return next_slot_at > now_ms + window and now_ms or math.max(next_slot_at, now_ms)
end

-- Removes an order from both wait queues.
local function leave_wait_queue(budget, id)
    redis.call('ZREM', budget .. ':waiting-new', id)
    redis.call('ZREM', budget .. ':waiting-backlog', id)
    redis.call('ZREM', budget .. ':eligible-at', id)
    redis.call('HDEL', budget .. ':waiting-since', id)
    redis.call('HDEL', budget .. ':created-at', id)
    redis.call('SREM', budget .. ':details-missing', id)
end

-- Returns up to 100 orders that should have requested a permit again at least GRACE_MS ago (`eligible-at`) but did not.
local GRACE_MS = 10000
local function gone_from_wait_queue(budget, now_ms)
    return redis.call('ZRANGEBYSCORE', budget .. ':eligible-at', '-inf', now_ms - GRACE_MS, 'LIMIT', 0, 100)
end

-- Removes from the wait queues up to 100 orders that no longer request a permit. The next call removes further ones.
local function tidy_wait_queue(budget, now_ms)
    for _, gone in ipairs(gone_from_wait_queue(budget, now_ms)) do
        leave_wait_queue(budget, gone)
    end
end
