-- Shared by the scripts of the API budget and of the list, behind the prelude: the keys of the provider's API, what
-- keeps orders from being checked with them, and the line of orders that wait for a request.

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

-- Returns the number and the fingerprint of the key with which a worker asks. A refused key is left out. The first
-- verified key is taken, or the first one where none is verified. Returns nothing where all are refused. A key that stands in for
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
