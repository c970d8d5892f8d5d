-- Functions for API keys, breakers and wait queues. They precede the scripts of the budget and of the list, after the
-- prelude. rate_limit/mod.rs lists the keys in Redis.

-- Returns the remaining TTL, in ms, of a Redis key that marks a state, such as an open breaker; 0 if it does not exist.
-- The key's value is its full duration. If the clock of Redis was moved back, the TTL exceeds that and is shortened.
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

-- Returns the Redis key of the probe, or nothing if no breaker is half-open for this API key. While a breaker is
-- half-open, only one request is in flight, the probe. Its answer shows whether the provider works or the key is valid.
local function probe_of(budget, key)
    if redis.call('EXISTS', budget .. ':half-open') == 1 then
        return budget .. ':probe'
    elseif redis.call('EXISTS', budget .. ':verified:' .. key) == 0
        or redis.call('EXISTS', budget .. ':mistrust-rounds:' .. key) == 1 then
        return budget .. ':probe:' .. key
    end
end

-- Records that this worker can check orders: the provider refuses neither its keys nor its address.
local ABLE_MS = 90000
local function note_able(budget, worker, now_ms)
    -- A process that runs suspects (jobs that ran when their worker died) has no id. It takes no jobs of other workers.
    if worker == '' then
        return
    end
    redis.call('ZADD', budget .. ':able-workers', now_ms + ABLE_MS, worker)
end

-- Returns when the next request with this key may be sent at an even pace (GCRA), in ms: `now_ms` at the earliest.
-- A stored time more than a window ahead was stored before the clock of Redis was moved back, and is ignored.
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

-- Returns up to 100 waiting orders that requested no permit within GRACE_MS after they became eligible.
local GRACE_MS = 10000
local function gone_from_wait_queue(budget, now_ms)
    return redis.call('ZRANGEBYSCORE', budget .. ':eligible-at', '-inf', now_ms - GRACE_MS, 'LIMIT', 0, 100)
end

-- Removes up to 100 orders that no longer request a permit from the wait queues. The next call removes further ones.
local function tidy_wait_queue(budget, now_ms)
    for _, gone in ipairs(gone_from_wait_queue(budget, now_ms)) do
        leave_wait_queue(budget, gone)
    end
end
