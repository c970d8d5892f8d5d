-- Requests a permit for one request to the provider.
-- KEYS[1] budget   ARGV:
--   purpose                'order' to check it, 'page' for a page of the list, which shows many orders, or
--                          'verification' for a row of the list, which shows whether the key and the provider are good
--   order                  its id; empty for the other purposes
--   ms since 1970          at which the order was created
--   ms                     for which an order that the list showed needs no request, beyond the time that a reading takes; 0
--                          without a list
--   ms                     by which it stands behind an order that asks now
--   1                      for an order of the backlog: a recheck, or one that is long past fast polling
--   number                 of requests a window
--   ms                     of a window
--   number                 of requests that may be made at once after a pause
--   number                 of requests in flight at most
--   ms                     a request may take
--   ms                     for which a request counts as in flight unless its worker renews that
--   ms                     to look again while a probe is in flight
--   ms                     to wait at most
--   id                     of the worker
--   list                   of the fingerprints of its keys: their number, then each
-- Returns one of
--   {'granted', permit, number of the key from 0 up, 1 for a probe, ms waited for it}
--   {'wait', ms}           other orders come first, or the next reading of the list will show this one
--   {'seen-in-list'}       the list has just shown the order HANDLING
--   {'blocked', ms}        the breaker is open
--   {'mistrusted', ms}     "not found" is not believed from this key
--   {'refused', ms}        the provider refuses every key of the worker
local budget = KEYS[1]
local purpose, order, created_at, seen_for, patience =
    take(), take(), take(), tonumber(take()), tonumber(take())
local in_backlog = take() == '1'
local limit, window, burst, max_in_flight, request, lease, look, longest =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()),
    tonumber(take()), tonumber(take())
local worker, keys = take(), take_list()
local now = math.floor(now() * 1000)
-- New orders and the backlog wait in a queue each.
local new_orders, backlog = budget .. ':waiting-new', budget .. ':waiting-backlog'
local queue, other_queue = new_orders, backlog
if in_backlog then
    queue, other_queue = backlog, new_orders
end
local eligible_at, waiting_since = budget .. ':eligible-at', budget .. ':waiting-since'
local new_since_backlog = budget .. ':new-since-backlog'
local created_at_of, details_missing = budget .. ':created-at', budget .. ':details-missing'

local number, key = key_in_use(budget, keys)
if not number then
    local soonest = math.huge
    for _, refused in ipairs(keys) do
        soonest = math.min(soonest, lasts_for(budget .. ':refused:' .. refused))
    end
    return { 'refused', soonest }
end
if purpose == 'verification' then
    -- The first key that is not known to be good or bad.
    for n, unknown in ipairs(keys) do
        if lasts_for(budget .. ':refused:' .. unknown) == 0
            and redis.call('EXISTS', budget .. ':verified:' .. unknown) == 0 then
            number, key = n, unknown
            break
        end
    end
end
local blocked_for = breaker_open_for(budget, key)
local function is_unknown()
    return redis.call('SISMEMBER', budget .. ':unknown:' .. key, order) == 1
end
if blocked_for == 0 and purpose ~= 'verification' and (purpose ~= 'order' or is_unknown()) then
    -- While the answers "not found" of this key are not believed, only an order that was not asked for since may show
    -- that the key knows orders.
    blocked_for = lasts_for(budget .. ':mistrusted:' .. key)
    if blocked_for > 0 and purpose == 'order' then
        redis.call('HDEL', waiting_since, order)
        return { 'mistrusted', blocked_for }
    end
end
if blocked_for > 0 then
    -- Only the time in the queue is measured.
    redis.call('HDEL', waiting_since, order)
    -- The breaker may close sooner: by an answer to another order, or by an operator. A reading of the list is given up
    -- instead.
    return { 'blocked', purpose == 'order' and math.min(blocked_for, longest) or blocked_for }
end
local probe = probe_of(budget, key)
local window_log, in_flight = budget .. ':window-log:' .. key, budget .. ':in-flight:' .. key
redis.call('ZREMRANGEBYSCORE', window_log, '-inf', now)
redis.call('ZREMRANGEBYSCORE', in_flight, '-inf', now)
-- What lies further ahead than it can was written by a clock that has been set back since.
redis.call('ZREMRANGEBYSCORE', window_log, '(' .. (now + request + window), '+inf')
redis.call('ZREMRANGEBYSCORE', in_flight, '(' .. (now + lease), '+inf')
local pace = window / limit
local next_slot_at = next_slot_of(budget, key, window, now)
local used, in_flight_now = redis.call('ZCARD', window_log), redis.call('ZCARD', in_flight)

-- How long until this many requests may be made, by the window and the pace.
local function allowed_in(requests)
    local wait = math.max(0, next_slot_at + (requests - burst) * pace - now)
    if used + requests > limit then
        local n = used + requests - limit - 1
        local oldest = redis.call('ZRANGE', window_log, n, n, 'WITHSCORES')
        wait = math.max(wait, oldest[2] and tonumber(oldest[2]) - now or requests * pace)
    end
    return wait
end

-- The same, by the requests in flight too.
local function wait_for(requests)
    return math.max(allowed_in(requests), pace / 2 * (in_flight_now + requests - max_in_flight))
end

local function grant()
    local began = tonumber(redis.call('HGET', waiting_since, order) or now)
    leave_wait_queue(budget, order)
    if in_backlog then
        redis.call('DEL', new_since_backlog)
    elseif redis.call('EXISTS', backlog) == 1 then
        redis.call('INCR', new_since_backlog)
    end
    local permit = redis.call('INCR', budget .. ':permit-number')
    -- Until it is answered it is not known when the provider counts it; it counts here for as long as it may.
    redis.call('ZADD', window_log, now + request + window, permit)
    redis.call('PEXPIRE', window_log, request + 2 * window)
    redis.call('ZADD', in_flight, now + lease, permit)
    redis.call('PEXPIRE', in_flight, lease)
    local slot_after = next_slot_at + pace
    redis.call('SET', budget .. ':next-slot-at:' .. key, slot_after, 'PX', math.ceil(slot_after - now + window))
    if probe then
        redis.call('SET', probe, permit, 'PX', lease)
    else
        note_able(budget, worker, now)
    end
    -- The clock of Redis may have been set back since it began.
    return { 'granted', permit, number - 1, probe and 1 or 0, math.max(now - began, 0) }
end

-- Whether the probe may be made now: no other is in flight. One that ends later than it can was begun before the clock
-- of Redis was set back.
local function may_probe()
    if redis.call('PTTL', probe) > lease then
        redis.call('DEL', probe)
    end
    return wait_for(1) <= 0 and redis.call('EXISTS', probe) == 0
end

-- Takes the order out of its queue. The list still reads back to it, and may show it.
local function wait_for_list(ms)
    redis.call('ZREM', queue, order)
    redis.call('ZADD', eligible_at, now + ms, order)
end

-- How many of the first `most` orders of a queue come back within this time. An order that comes back later holds up no
-- other. Neither does one that is late: when the workers are behind, all orders are late, and a request kept for one of
-- them would be used for none. Only the first orders are counted for the same reason: a request out of turn is better than
-- an unused one.
local LOOKED_AT = 100
local LATE_MS = 1000
local function asking(orders, most, within_ms)
    local first = redis.call('ZRANGE', orders, 0, math.min(most, LOOKED_AT) - 1)
    if most < 1 or #first == 0 then
        return 0
    end
    local count = 0
    for _, at in ipairs(redis.call('ZMSCORE', eligible_at, unpack(first))) do
        if not at or (tonumber(at) <= now + within_ms and tonumber(at) > now - LATE_MS) then
            count = count + 1
        end
    end
    return count
end

-- The shares. While both classes wait, the backlog gets every fifth request and new orders, with the pages of the list,
-- get the others. What one class leaves, the other takes.
local SHARE = 5
-- A request is kept for an order that asks before the saved requests overflow the burst: until then none is lost.
local soon = burst * pace
local function is_turn_of_backlog()
    return tonumber(redis.call('GET', new_since_backlog) or '0') >= SHARE - 1 and asking(backlog, LOOKED_AT, soon) > 0
end

-- How many requests are kept for a page of the list.
local function reserved_for_list()
    return lasts_for(budget .. ':list-reserved') > 0 and 1 or 0
end

-- How many requests are kept for other orders than this one.
local function kept(rank)
    local ahead = asking(queue, rank, 0)
    local page = reserved_for_list()
    if not in_backlog then
        return ahead + page + (is_turn_of_backlog() and 1 or 0)
    end
    return ahead + (is_turn_of_backlog() and 0 or page + asking(new_orders, LOOKED_AT, soon))
end

tidy_wait_queue(budget, now)

-- While the list is read again and again it shows most orders, and requests are for those that it does not show. A
-- reading that began later than now was before the clock was set back, and counts no more.
local list_state = redis.call('HMGET', budget .. ':list-state', 'began', 'from', 'until', 'next', 'begin', 'took')
local regular = list_state[1] and tonumber(list_state[1]) <= now and tonumber(list_state[3]) > now

-- A page of the list shows many new orders: the next request is kept for it, unless it is the backlog's turn. While an
-- urgent order waits that the list does not show, every other request goes to the queue. Four of five do while the card
-- details of more orders are missing than a sixth of a window's requests: a page would only show more of those.
local list_reserved, list_served = budget .. ':list-reserved', budget .. ':list-served'
if purpose ~= 'order' then
    local wait = math.ceil(wait_for(1))
    if probe then
        if purpose == 'verification' and may_probe() then
            return grant()
        end
        return { 'wait', math.max(wait, look) }
    end
    -- A first reading may still show all orders; only those whose card details are missing need a request.
    local in_turn = regular or redis.call('SCARD', details_missing) > 0
    local head = in_turn and redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES') or {}
    local others = redis.call('SCARD', details_missing) > limit / 6 and 4 or 1
    if wait <= 0 and is_turn_of_backlog() then
        redis.call('DEL', list_reserved)
        return { 'wait', math.ceil(pace) }
    end
    if wait <= 0 and head[2] and tonumber(head[2]) <= now and redis.call('DEL', list_served) == 1 then
        redis.call('DEL', list_reserved)
        return { 'wait', math.ceil(pace * others) }
    end
    if wait <= 0 then
        redis.call('DEL', list_reserved)
        redis.call('SET', list_served, 1, 'PX', math.ceil(pace * (others + 1)))
        return grant()
    end
    last_for(list_reserved, wait + look)
    return { 'wait', wait }
end

-- An order that moves to the other queue keeps the time at which it came.
local came = redis.call('ZSCORE', other_queue, order)
redis.call('ZREM', other_queue, order)
-- Where the clock was set back since the order came, its old score would put it behind all that come now.
redis.call('ZADD', queue, 'LT', came or now + patience, order)
redis.call('HSETNX', waiting_since, order, now)
-- The list is read for new orders alone: the pages that show the backlog lie days back.
if in_backlog then
    redis.call('HDEL', created_at_of, order)
else
    redis.call('HSET', created_at_of, order, created_at)
end
local rank = redis.call('ZRANK', queue, order)

local function join_wait_queue(at_least)
    local turn = rank + 1 + reserved_for_list() + (in_backlog and redis.call('ZCARD', new_orders) or 0)
    local function capped(wait)
        return math.min(math.max(math.ceil(wait), at_least), longest)
    end
    local wait = capped(wait_for(turn))
    -- When a request is free is a guess. Where it is free sooner, an order that came later must not overtake those whose
    -- turn it is.
    redis.call('ZADD', eligible_at, now + (rank < max_in_flight and capped(allowed_in(turn)) or wait), order)
    return { 'wait', wait }
end

if probe then
    -- One request at a time is made; the other orders come back one after another.
    return may_probe() and grant() or join_wait_queue(look)
end

if seen_for > 0 and regular and redis.call('SMISMEMBER', details_missing, order)[1] == 0 then
    local took = math.min(tonumber(list_state[6] or 0), window)
    local seen = tonumber(redis.call('ZSCORE', budget .. ':seen-in-list', order) or '-inf')
    -- Between two sightings of an order lies a whole reading.
    if seen and seen <= now and now - seen <= seen_for + took then
        wait_for_list(longest)
        redis.call('HDEL', waiting_since, order)
        return { 'seen-in-list' }
    end
    local began, second = tonumber(redis.call('HGET', waiting_since, order)), window / 60
    local reading = redis.call('EXISTS', budget .. ':list-lock') == 1
    if (reading or tonumber(list_state[4]) + second > now)
        and tonumber(created_at) >= tonumber(list_state[2]) and began > tonumber(list_state[1]) then
        -- Until the reading ends, if it takes as long as the last one. A row that decides an order wakes its job before that.
        local ends = (reading and tonumber(list_state[5]) or tonumber(list_state[4])) + took
        local wait = math.ceil(math.min(math.max(ends - now, took / 4, second, look), longest))
        wait_for_list(wait)
        return { 'wait', wait }
    end
end
if wait_for(kept(rank) + 1) <= 0 then
    return grant()
end
return join_wait_queue(1)
