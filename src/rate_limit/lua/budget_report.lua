-- Reports how a request ended.
-- KEYS[1] budget
-- ARGV, in this order:
--   permit                 number of the permit
--   number                 of the API key that the request used, from 0
--   window                 in ms
--   worker                 id
--   order                  id of the order that was checked; empty for a row or a page of the list
--   known                  1 if the provider has answered for that order before
--   keys                   list of the fingerprints of the worker's API keys: their number, then each
--   verdict                one of these, followed by its own arguments:
--     'usable'               the provider answered; then: how long that verifies the key, in ms
--     'own'                  an error that concerns this order only
--     'failed'               no usable answer; then: failures in a row, of two orders or more, that open the breaker
--                            (a failed probe opens it), ms open at first and at most, ms until failures are forgotten
--     'unknown'              the provider does not know the order; then: number of such orders at which "not found" is
--                            no longer believed, first and longest ms of that, ms until such answers are forgotten
--     'refused'              the key is refused; then: how long it is not tried again, in ms
--     'limited'              the key has used up its requests; then: for how long, in ms
--     'unavailable'          the provider accepts no requests; then: for how long, in ms
--     'address'              the provider refuses the address of this worker
-- Returns {word, number}:
--   'usable', 'own', 'address'      the number is 0
--   'recovered'                     as 'usable', and an open breaker was logged before; the number is 0
--   'failed'                        orders (the list counts as one) that failed since the last answer for an order
--   'other-key'                     another API key of the worker takes over; the number is 0
--   'refused'                       every API key of the worker is refused, for this many ms
--   'open', 'opened'                the breaker is open for this many ms; 'opened' if that was not logged yet
--   'mistrusted',                   "not found" is not believed from this API key for this many ms;
--   'mistrusted-first'              'mistrusted-first' if that was not logged yet
local budget = KEYS[1]
local permit, number, window, worker, order = take(), tonumber(take()), tonumber(take()), take(), take()
local known, keys = take() == '1', take_list()
local key, verdict = keys[number + 1], take()
local now_ms = math.floor(now() * 1000)
local function of_key(name)
    return budget .. ':' .. name .. ':' .. key
end
redis.call('ZREM', of_key('in-flight'), permit)
-- The provider may have counted the request just now. Its clock may be slower than that of Redis, so 0.1 % is added.
redis.call('ZADD', of_key('window-log'), 'XX', now_ms + 1 + math.ceil(window * 1.001), permit)
local probes = { budget .. ':probe', of_key('probe') }
if redis.call('EXISTS', unpack(probes)) > 0 then
    for _, probe in ipairs(probes) do
        if redis.call('GET', probe) == permit then
            redis.call('DEL', probe)
        end
    end
end

-- Opens the breaker `state` for `ms`. After that it is half-open until a usable answer, if `half_open` stores this.
local function open(state, half_open, ms)
    if lasts_for(state) < ms then
        last_for(state, ms)
    end
    half_open()
    return { redis.call('SET', budget .. ':breaker-reported', 1, 'NX') and 'opened' or 'open', ms }
end
local function provider_is_half_open()
    redis.call('SET', budget .. ':half-open', 1)
end
local function key_is_half_open()
    redis.call('DEL', of_key('verified'))
end

if verdict == 'usable' or (verdict == 'own' and order == '') then
    local ms = tonumber(take() or '0')
    -- A refusal or an open breaker may have begun after this request was sent, so this answer does not end it.
    local blocking = { of_key('refused'), budget .. ':breaker', of_key('breaker') }
    if redis.call('EXISTS', unpack(blocking)) > 0 and (lasts_for(blocking[1]) > 0 or breaker_open_for(budget, key) > 0) then
        return { verdict, 0 }
    end
    if verdict == 'usable' then
        redis.call('SET', of_key('verified'), 1, 'PX', ms)
    else
        -- The provider accepts the key, but not for the list. The key counts as verified without an expiry.
        redis.call('SET', of_key('verified'), 1)
    end
    redis.call('DEL', budget .. ':half-open')
    if order == '' then
        return { verdict, 0 }
    end
    note_able(budget, worker, now_ms)
    redis.call('SET', of_key('knows'), 1, 'PX', ms)
    redis.call('DEL', budget .. ':failures', budget .. ':failed-orders', budget .. ':failing-since', of_key('unknown'),
        of_key('mistrusted'), of_key('mistrust-rounds'))
    return { redis.call('DEL', budget .. ':breaker-reported') == 1 and 'recovered' or verdict, 0 }
elseif verdict == 'failed' then
    local most, first, longest, memory = tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take())
    local made, failing = redis.call('INCR', budget .. ':failures'), budget .. ':failed-orders'
    redis.call('PEXPIRE', budget .. ':failures', memory)
    redis.call('ZADD', failing, now_ms, order)
    redis.call('ZREMRANGEBYSCORE', failing, '-inf', now_ms - memory)
    redis.call('ZREMRANGEBYSCORE', failing, '(' .. now_ms, '+inf')
    redis.call('PEXPIRE', failing, memory)
    local distinct = redis.call('ZCARD', failing)
    redis.call('SET', budget .. ':failing-since', now_ms, 'PX', 12 * memory, 'NX')
    local ms = math.min(first * 2 ^ math.min(math.max(made - most, 0), 20), longest)
    local probe = probe_of(budget, key)
    if probe == budget .. ':probe' or (made >= most and distinct > 1) then
        return open(budget .. ':breaker', provider_is_half_open, ms)
    elseif probe then
        return open(of_key('breaker'), key_is_half_open, ms)
    end
    -- After an hour of failures the cause may be these orders, not the provider. So 1 is returned, as if only one order
    -- had failed: a recheck then requests the list, which shows whether the provider answers.
    local since = tonumber(redis.call('GET', budget .. ':failing-since'))
    return { verdict, now_ms - since > 6 * memory and 1 or distinct }
elseif verdict == 'unknown' then
    local many, first, longest, memory = tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take())
    if not known and redis.call('EXISTS', of_key('knows')) == 1 then
        -- With this key the provider has known other orders, so it lacks only this one, unless mistrust has begun.
        if redis.call('EXISTS', of_key('mistrust-rounds')) == 0 then
            return { 'own', 0 }
        end
        redis.call('SADD', of_key('unknown'), order)
        return { 'mistrusted', math.max(lasts_for(of_key('mistrusted')), first) }
    end
    local fresh = redis.call('SADD', of_key('unknown'), order) == 1
    redis.call('PEXPIRE', of_key('unknown'), memory)
    local few = redis.call('SCARD', of_key('unknown')) < many
    -- A few "not found" are believed, except with a secondary key for which the provider has never known an order: that
    -- key may be of the provider's other environment (sandbox or production).
    if few and (number == 0 or redis.call('EXISTS', of_key('knows')) == 1) then
        return { 'own', 0 }
    end
    -- Only a repeated "not found" for one order makes the mistrust last longer, so that other orders are tried soon.
    local rounds = fresh and tonumber(redis.call('GET', of_key('mistrust-rounds')) or '0')
        or redis.call('INCR', of_key('mistrust-rounds'))
    redis.call('SET', of_key('mistrust-rounds'), rounds, 'PX', memory)
    redis.call('ZREM', budget .. ':able-workers', worker)
    local ms = math.min(first * 2 ^ math.min(rounds, 20), longest)
    last_for(of_key('mistrusted'), ms)
    local is_new = redis.call('SET', of_key('mistrust-reported'), 1, 'PX', memory, 'NX')
    return { is_new and 'mistrusted-first' or 'mistrusted', ms }
elseif verdict == 'refused' then
    local ms, others = tonumber(take()), 0
    key_is_half_open()
    last_for(of_key('refused'), ms)
    for _, other in ipairs(keys) do
        if lasts_for(budget .. ':refused:' .. other) == 0 then
            -- The other key may have been revoked as well, so it is verified again with one request.
            redis.call('DEL', budget .. ':verified:' .. other)
            return { 'other-key', 0 }
        end
        others = others + (other ~= key and 1 or 0)
    end
    if others > 0 then
        -- The keys are tried again at different times, because the provider blocks an address after five refusals.
        for _, other in ipairs(keys) do
            last_for(budget .. ':refused:' .. other, other == key and 2 * ms or ms)
        end
    end
    return { verdict, ms }
elseif verdict == 'limited' then
    return open(of_key('breaker'), function() end, tonumber(take()))
elseif verdict == 'unavailable' then
    return open(budget .. ':breaker', provider_is_half_open, tonumber(take()))
end
return { verdict, 0 }
