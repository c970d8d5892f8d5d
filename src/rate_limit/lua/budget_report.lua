-- Reports how a request ended.
-- KEYS[1] budget   ARGV:
--   permit
--   number                 of the key that it was made with, from 0 up
--   ms                     of a window
--   id                     of the worker
--   order                  that was checked; empty for a row or a page of the list
--   1                      where the provider has answered for that order before
--   list                   of the fingerprints of the worker's keys: their number, then each
--   verdict                what the answer says, with what the verdict needs:
--     'usable'               the provider answered; then: ms for which that verifies the key
--     'own'                  an error that concerns this order alone
--     'failed'               no usable answer; then: failures in a row that open the breaker, ms of the first state, ms
--                            of the longest, ms after which failures are forgotten. One order alone never opens it
--     'unknown'              the provider does not know the order; then: distinct orders that open the breaker of the key,
--                            ms of the first state, ms of the longest, ms after which such answers are forgotten
--     'refused'              the key is refused; then: ms for which it is not tried again
--     'limited'              the key has used up its requests; then: ms
--     'unavailable'          the provider takes no requests; then: ms
--     'address'              the provider refuses the address of this worker
-- Returns {word, number}:
--   'usable', 'own', 'address'      the number is 0
--   'recovered'                     as 'usable', and the provider did not answer before
--   'failed'                        how many distinct orders, and the list, have failed since an order was last answered for
--   'other-key'                     another key of the worker takes over
--   'refused'                       every key of the worker is refused; for so many ms
--   'open', 'opened'                the breaker is open for so many ms; 'opened' where it was not before
--   'mistrusted',                   the provider knows none of many orders with this key: that is not believed for so
--   'mistrusted-first'              many ms; 'mistrusted-first' where it has not been logged yet
local budget = KEYS[1]
local permit, number, window, worker, order = take(), tonumber(take()), tonumber(take()), take(), take()
local known, keys = take() == '1', take_list()
local key, verdict = keys[number + 1], take()
local now = math.floor(now() * 1000)
local function of_key(name)
    return budget .. ':' .. name .. ':' .. key
end
redis.call('ZREM', of_key('in-flight'), permit)
-- The provider may have counted it in this very millisecond, and its clock may be a little slower.
redis.call('ZADD', of_key('window-log'), 'XX', now + 1 + math.ceil(window * 1.001), permit)
for _, probe in ipairs({ budget .. ':probe', of_key('probe') }) do
    if redis.call('GET', probe) == permit then
        redis.call('DEL', probe)
    end
end

-- Opens a breaker for this time; then one request at a time is made until an answer is usable.
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
    -- It says nothing of a state that began after the request was sent.
    if lasts_for(of_key('refused')) > 0 or breaker_open_for(budget, key) > 0 then
        return { verdict, 0 }
    end
    if verdict == 'usable' then
        redis.call('SET', of_key('verified'), 1, 'PX', ms)
    else
        -- The key is accepted, though not for the list.
        redis.call('SET', of_key('verified'), 1)
    end
    redis.call('DEL', budget .. ':half-open')
    if order == '' then
        return { verdict, 0 }
    end
    note_able(budget, worker, now)
    redis.call('SET', of_key('knows'), 1, 'PX', ms)
    redis.call('DEL', budget .. ':failures', budget .. ':failed-orders', budget .. ':failing-since', of_key('unknown'),
        of_key('mistrusted'), of_key('mistrust-rounds'))
    return { redis.call('DEL', budget .. ':breaker-reported') == 1 and 'recovered' or verdict, 0 }
elseif verdict == 'failed' then
    local most, first, longest, memory = tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take())
    local made, failing = redis.call('INCR', budget .. ':failures'), budget .. ':failed-orders'
    redis.call('PEXPIRE', budget .. ':failures', memory)
    redis.call('ZADD', failing, now, order)
    redis.call('ZREMRANGEBYSCORE', failing, '-inf', now - memory)
    redis.call('ZREMRANGEBYSCORE', failing, '(' .. now, '+inf')
    redis.call('PEXPIRE', failing, memory)
    local distinct = redis.call('ZCARD', failing)
    redis.call('SET', budget .. ':failing-since', now, 'PX', 12 * memory, 'NX')
    local ms = math.min(first * 2 ^ math.min(math.max(made - most, 0), 20), longest)
    -- While one request at a time is made, its failure is enough.
    local probe = probe_of(budget, key)
    if probe == budget .. ':probe' or (made >= most and distinct > 1) then
        return open(budget .. ':breaker', provider_is_half_open, ms)
    elseif probe then
        return open(of_key('breaker'), key_is_half_open, ms)
    end
    -- After an hour of failures the orders themselves are at fault, where the list is answered: each counts alone.
    local since = tonumber(redis.call('GET', budget .. ':failing-since'))
    return { verdict, now - since > 6 * memory and 1 or distinct }
elseif verdict == 'unknown' then
    local many, first, longest, memory = tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take())
    if not known and redis.call('EXISTS', of_key('knows')) == 1 then
        -- The key knows orders, and has never known this one. While it knows none of the others either, that says nothing.
        if redis.call('EXISTS', of_key('mistrust-rounds')) == 0 then
            return { 'own', 0 }
        end
        redis.call('SADD', of_key('unknown'), order)
        return { 'mistrusted', math.max(lasts_for(of_key('mistrusted')), first) }
    end
    local fresh = redis.call('SADD', of_key('unknown'), order) == 1
    redis.call('PEXPIRE', of_key('unknown'), memory)
    local few = redis.call('SCARD', of_key('unknown')) < many
    -- A key that took over may be of the provider's other environment, which knows none of the orders.
    if few and (number == 0 or redis.call('EXISTS', of_key('knows')) == 1) then
        return { 'own', 0 }
    end
    -- Orders that were not asked for before may each show in turn that the key knows them, whatever the others did.
    local rounds = fresh and tonumber(redis.call('GET', of_key('mistrust-rounds')) or '0')
        or redis.call('INCR', of_key('mistrust-rounds'))
    redis.call('SET', of_key('mistrust-rounds'), rounds, 'PX', memory)
    redis.call('ZREM', budget .. ':able-workers', worker)
    local ms = math.min(first * 2 ^ math.min(rounds, 20), longest)
    last_for(of_key('mistrusted'), ms)
    local first = redis.call('SET', of_key('mistrust-reported'), 1, 'PX', memory, 'NX')
    return { first and 'mistrusted-first' or 'mistrusted', ms }
elseif verdict == 'refused' then
    local ms, others = tonumber(take()), 0
    key_is_half_open()
    last_for(of_key('refused'), ms)
    for _, other in ipairs(keys) do
        if lasts_for(budget .. ':refused:' .. other) == 0 then
            -- It may have been revoked as well: one request finds out.
            redis.call('DEL', budget .. ':verified:' .. other)
            return { 'other-key', 0 }
        end
        others = others + (other ~= key and 1 or 0)
    end
    if others > 0 then
        -- From now on one key is tried each time, and not one after the other: five refusals lock the address out.
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
