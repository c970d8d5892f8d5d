-- Tells how a request went.
-- KEYS[1] budget   ARGV: ticket, key, ms of a window, number of keys, their fingerprint, what came of it:
--   'usable'   the provider lets this service ask
--   'failed'   no usable answer; then: failures in a row that close the gate, ms of the first closure, ms of the longest
--   'refused'  the key was refused; then: ms for which it is not tried again
--   'closed'   nobody may ask; then: ms
-- Returns 'usable', 'failed', 'other-key' where the other key takes over, 'outdated' where other workers have other
-- keys by now, 'closed', or 'closed-anew' where nobody could ask for the first time since somebody could
local budget = KEYS[1]
local ticket, key, window, keys = take(), tonumber(take()), tonumber(take()), tonumber(take())
local fingerprint, verdict = take(), take()
local now = math.floor(now() * 1000)
redis.call('ZREM', budget .. ':flying:' .. key, ticket)
-- The provider may have counted it in this very millisecond, and its clock may be a little slower.
redis.call('ZADD', budget .. ':spent:' .. key, 'XX', now + 1 + math.ceil(window * 1.001), ticket)

local gate, proven, probe, failures, told =
    budget .. ':gate', budget .. ':proven', budget .. ':probe', budget .. ':failures', budget .. ':told'

-- Lets one ask alone once this time is over.
local function close(ms)
    if redis.call('PTTL', gate) < ms then
        -- For how long is kept beside: see who asks.
        redis.call('SET', gate, ms, 'PX', ms)
    end
    redis.call('DEL', proven, probe)
    return redis.call('SET', told, 1, 'NX') and 'closed-anew' or 'closed'
end

if verdict == 'usable' then
    -- An answer to the key that has been left says nothing of the one in use, and one to a request that was sent
    -- before a refusal nothing of what came after.
    if key == key_in_use(budget, keys) and redis.call('PTTL', gate) <= 0 then
        redis.call('SET', proven, 1)
        redis.call('DEL', probe, failures, told, budget .. ':refused:' .. key)
    end
    return verdict
elseif verdict == 'failed' then
    local most, first, longest = tonumber(take()), tonumber(take()), tonumber(take())
    local made = redis.call('INCR', failures)
    -- While one asks for all, its failure is enough: nobody knows any better.
    if made < most and redis.call('EXISTS', proven) == 1 then
        return verdict
    end
    return close(math.min(first * 2 ^ math.min(math.max(made - most, 0), 20), longest))
elseif verdict == 'refused' then
    local ms = tonumber(take())
    if (redis.call('GET', budget .. ':keys') or fingerprint) ~= fingerprint then
        -- That key was replaced, and this worker has not been yet. It says nothing of the one in use.
        redis.call('DEL', probe)
        return 'outdated'
    end
    local other = (key + 1) % keys
    local this_refused, other_refused = budget .. ':refused:' .. key, budget .. ':refused:' .. other
    redis.call('SET', this_refused, 1, 'PX', ms)
    if key ~= key_in_use(budget, keys) then
        return 'other-key'
    end
    redis.call('SET', budget .. ':key', other)
    if redis.call('EXISTS', other_refused) == 1 then
        -- Both are remembered beyond the closure, so that one of them is tried after it and not one after the other.
        redis.call('SET', this_refused, 1, 'PX', 2 * ms)
        redis.call('SET', other_refused, 1, 'PX', 2 * ms)
        return close(ms)
    end
    redis.call('DEL', proven, probe)
    return 'other-key'
end
return close(tonumber(take()))
