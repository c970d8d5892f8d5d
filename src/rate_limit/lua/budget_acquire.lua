-- Requests a permit for one request to the provider.
-- KEYS[1] budget
-- ARGV, in this order:
--   purpose                'order' to check an order, 'page' for a page of the list, or 'verification' for a row of the
--                          list, which shows whether the key is valid and the provider answers
--   order                  id; empty for the other purposes
--   created_at             when the order was created, in ms since 1970
--   seen_for               ms (plus the duration of a reading, one pass over the list) for which an order that the list
--                          showed needs no request; 0 if a row of the list cannot replace the request
--   patience               delay of this order in the wait queue, in ms; 0 in the backlog, or if it was never checked
--   in_backlog             1 for an order of the backlog: a recheck, or an order long past fast polling
--   limit                  requests per window
--   window                 in ms
--   burst                  requests that may be made at once after a pause
--   max_in_flight          most requests in flight at once with one API key
--   request                longest time of a request, in ms
--   lease                  how long a request counts as in flight without a renewal, in ms
--   look                   wait before an order checks again whether a probe has ended, in ms
--   longest                longest wait that the script returns for an order, in ms
--   worker                 id
--   keys                   list of the fingerprints of the worker's API keys: their number, then each
-- Returns one of
--   {'granted', permit number, number of the API key (from 0), 1 for a probe, ms waited for the permit}
--   {'wait', ms}           other orders come first, or the present or next reading of the list will show this order
--   {'full', ms}           only requests in flight keep this order, one of the first, from a permit; ms is estimated
--   {'seen-in-list'}       the list has just shown the order HANDLING
--   {'blocked', ms}        the breaker is open
--   {'mistrusted', ms}     the answer "not found" with this API key is not believed
--   {'refused', ms}        the provider refuses every API key of the worker
local budget = KEYS[1]
local purpose, order, created_at, seen_for, patience =
    take(), take(), take(), tonumber(take()), tonumber(take())
local in_backlog = take() == '1'
local limit, window, burst, max_in_flight, request, lease, look, longest =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()),
    tonumber(take()), tonumber(take())
local worker, keys = take(), take_list()
local now_ms = math.floor(now() * 1000)
local new_orders, backlog = budget .. ':waiting-new', budget .. ':waiting-backlog'
local queue, other_queue = new_orders, backlog
if in_backlog then
    queue, other_queue = backlog, new_orders
end
local eligible_at, waiting_since = budget .. ':eligible-at', budget .. ':waiting-since'
local new_since_backlog = budget .. ':new-since-backlog'
local created_at_of, details_missing = budget .. ':created-at', budget .. ':details-missing'

-- Usual case: the first key is verified, and no refusal, breaker or mistrust exists. Two commands then suffice.
local first = keys[1]
local unrestricted = redis.call('EXISTS', budget .. ':refused:' .. first, budget .. ':breaker', budget .. ':breaker:' .. first,
    budget .. ':half-open', budget .. ':mistrusted:' .. first, budget .. ':mistrust-rounds:' .. first) == 0
    and redis.call('EXISTS', budget .. ':verified:' .. first) == 1
local number, key = 1, first
if not unrestricted then
    number, key = key_in_use(budget, keys)
end
if not number then
    local soonest = math.huge
    for _, refused in ipairs(keys) do
        soonest = math.min(soonest, lasts_for(budget .. ':refused:' .. refused))
    end
    return { 'refused', soonest }
end
if purpose == 'verification' then
    -- The request verifies the first key that is neither verified nor refused.
    for n, unknown in ipairs(keys) do
        if lasts_for(budget .. ':refused:' .. unknown) == 0
            and redis.call('EXISTS', budget .. ':verified:' .. unknown) == 0 then
            number, key = n, unknown
            break
        end
    end
end
unrestricted = unrestricted and key == first
local blocked_for = unrestricted and 0 or breaker_open_for(budget, key)
local function is_unknown()
    return redis.call('SISMEMBER', budget .. ':unknown:' .. key, order) == 1
end
if not unrestricted and blocked_for == 0 and purpose ~= 'verification' and (purpose ~= 'order' or is_unknown()) then
    -- While "not found" is not believed, pages wait, as do orders that got it. Another order may prove the key valid.
    blocked_for = lasts_for(budget .. ':mistrusted:' .. key)
    if blocked_for > 0 and purpose == 'order' then
        redis.call('HDEL', waiting_since, order)
        return { 'mistrusted', blocked_for }
    end
end
if blocked_for > 0 then
    -- Deletes the start of the wait, because the measured wait excludes the time in which requests are blocked.
    redis.call('HDEL', waiting_since, order)
    -- An order waits for `longest` at most, because an answer for another order, or the operator, may close the
    -- breaker early. The list needs no such limit: its reading ends when it is blocked.
    return { 'blocked', purpose == 'order' and math.min(blocked_for, longest) or blocked_for }
end
local probe = not unrestricted and probe_of(budget, key)
local window_log, in_flight = budget .. ':window-log:' .. key, budget .. ':in-flight:' .. key
redis.call('ZREMRANGEBYSCORE', window_log, '-inf', now_ms)
redis.call('ZREMRANGEBYSCORE', in_flight, '-inf', now_ms)
-- Removes entries with times that are too far ahead: they were stored before the clock of Redis was moved back.
redis.call('ZREMRANGEBYSCORE', window_log, '(' .. (now_ms + request + window), '+inf')
redis.call('ZREMRANGEBYSCORE', in_flight, '(' .. (now_ms + lease), '+inf')
local pace = window / limit
local next_slot_at = next_slot_of(budget, key, window, now_ms)
local used, in_flight_now = redis.call('ZCARD', window_log), redis.call('ZCARD', in_flight)

-- Returns the ms until the limit per window and the even pace allow `requests` further requests.
local function allowed_in(requests)
    local wait = math.max(0, next_slot_at + (requests - burst) * pace - now_ms)
    if used + requests > limit then
        local n = used + requests - limit - 1
        local oldest = redis.call('ZRANGE', window_log, n, n, 'WITHSCORES')
        wait = math.max(wait, oldest[2] and tonumber(oldest[2]) - now_ms or requests * pace)
    end
    return wait
end

-- Like `allowed_in`, but also respects the limit of requests in flight; the time until enough of them end is estimated.
local function wait_for(requests)
    return math.max(allowed_in(requests), pace / 2 * (in_flight_now + requests - max_in_flight))
end

-- Whether Redis holds data of any waiting order, in a wait queue or waiting for the list.
local any_waiting = redis.call('EXISTS', new_orders, backlog, eligible_at, waiting_since, created_at_of, details_missing) > 0

local function grant()
    local began = now_ms
    if any_waiting then
        began = tonumber(redis.call('HGET', waiting_since, order) or now_ms)
        leave_wait_queue(budget, order)
    end
    if in_backlog then
        redis.call('DEL', new_since_backlog)
    elseif any_waiting and redis.call('EXISTS', backlog) == 1 then
        redis.call('INCR', new_since_backlog)
    end
    local permit = redis.call('INCR', budget .. ':permit-number')
    -- The provider counts the request at an unknown time before its answer, so the latest possible time is assumed.
    redis.call('ZADD', window_log, now_ms + request + window, permit)
    redis.call('PEXPIRE', window_log, request + 2 * window)
    redis.call('ZADD', in_flight, now_ms + lease, permit)
    redis.call('PEXPIRE', in_flight, lease)
    local slot_after = next_slot_at + pace
    redis.call('SET', budget .. ':next-slot-at:' .. key, slot_after, 'PX', math.ceil(slot_after - now_ms + window))
    if probe then
        redis.call('SET', probe, permit, 'PX', lease)
    else
        note_able(budget, worker, now_ms)
    end
    -- If the clock of Redis was moved back during the wait, the difference is negative and counts as 0.
    return { 'granted', permit, number - 1, probe and 1 or 0, math.max(now_ms - began, 0) }
end

-- Returns whether a probe is allowed now, which requires that no other is in flight. If the lease of a stored probe has
-- more time left than a lease can last, the clock of Redis was moved back since, and the probe is deleted first.
local function may_probe()
    if redis.call('PTTL', probe) > lease then
        redis.call('DEL', probe)
    end
    return wait_for(1) <= 0 and redis.call('EXISTS', probe) == 0
end

-- Moves an order from its queue to a wait for the list. Its creation time stays stored, so the list is read that far.
local function wait_for_list(ms)
    redis.call('ZREM', queue, order)
    redis.call('ZADD', eligible_at, now_ms + ms, order)
end

-- Returns how many of the first `most` orders of a queue (100 at most) should request a permit within `within_ms`, so
-- permits can be reserved for them. Orders more than LATE_MS late do not count: if the workers cannot keep up, all are
-- late, and reserved permits would stay unused. It is better if an order out of turn gets them.
local LOOKED_AT = 100
local LATE_MS = 1000
local function asking(orders, most, within_ms)
    local first = redis.call('ZRANGE', orders, 0, math.min(most, LOOKED_AT) - 1)
    if most < 1 or #first == 0 then
        return 0
    end
    local count = 0
    for _, due in ipairs(redis.call('ZMSCORE', eligible_at, unpack(first))) do
        if not due or (tonumber(due) <= now_ms + within_ms and tonumber(due) > now_ms - LATE_MS) then
            count = count + 1
        end
    end
    return count
end

-- While both queues hold orders, the backlog gets every fifth request. New orders and pages of the list get the others.
local SHARE = 5
-- The ms in which `burst` permits become free. Permits are reserved only for orders that request one within that time.
local soon = burst * pace
local function is_turn_of_backlog()
    return tonumber(redis.call('GET', new_since_backlog) or '0') >= SHARE - 1 and asking(backlog, LOOKED_AT, soon) > 0
end

local function reserved_for_list()
    return lasts_for(budget .. ':list-reserved') > 0 and 1 or 0
end

-- Returns how many permits others get before the order at `rank` of its queue: a page, and orders of both queues.
local function kept(rank)
    local ahead = asking(queue, rank, 0)
    local page = reserved_for_list()
    if not in_backlog then
        return ahead + page + (is_turn_of_backlog() and 1 or 0)
    end
    return ahead + (is_turn_of_backlog() and 0 or page + asking(new_orders, LOOKED_AT, soon))
end

if any_waiting then
    tidy_wait_queue(budget, now_ms)
end

-- `regular`: whether the list is read regularly. If so, an order that it shows needs no request. A last reading that
-- began after `now_ms` does not count: the clock of Redis was moved back since.
local list_state = redis.call('HMGET', budget .. ':list-state', 'began', 'from', 'until', 'next', 'begin', 'took')
local regular = list_state[1] and tonumber(list_state[1]) <= now_ms and tonumber(list_state[3]) > now_ms

-- When a page of the list gets a permit: it shows many new orders, so the next permit is reserved for it, unless it is
-- the backlog's turn. While a new order is urgent (its score has passed), one order follows each page. Four follow if
-- the orders that lack card details exceed a sixth of `limit`, because a page would only show more such orders.
local list_reserved, list_served = budget .. ':list-reserved', budget .. ':list-served'
if purpose ~= 'order' then
    local wait = math.ceil(wait_for(1))
    if probe then
        if purpose == 'verification' and may_probe() then
            return grant()
        end
        return { 'wait', math.max(wait, look) }
    end
    -- Before the first reading ends, pages leave orders no turn, unless some lack card details, which no page shows.
    local in_turn = regular or redis.call('SCARD', details_missing) > 0
    local head = in_turn and redis.call('ZRANGE', queue, 0, 0, 'WITHSCORES') or {}
    local others = redis.call('SCARD', details_missing) > limit / 6 and 4 or 1
    if wait <= 0 and is_turn_of_backlog() then
        redis.call('DEL', list_reserved)
        return { 'wait', math.ceil(pace) }
    end
    if wait <= 0 and head[2] and tonumber(head[2]) <= now_ms and redis.call('DEL', list_served) == 1 then
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

if not any_waiting and not probe and not regular and wait_for(reserved_for_list() + 1) <= 0 then
    return grant()
end
-- This order now joins a queue.
any_waiting = true

-- An order that waited in the other queue moves to this one and keeps its score.
local came = redis.call('ZSCORE', other_queue, order)
redis.call('ZREM', other_queue, order)
-- 'LT' keeps the lower of the old and the new score. If the clock of Redis was moved back, the old one is too high.
redis.call('ZADD', queue, 'LT', came or now_ms + patience, order)
redis.call('HSETNX', waiting_since, order, now_ms)
-- The list is read back to the oldest time stored here. An order of the backlog may be days old: that is many pages.
if in_backlog then
    redis.call('HDEL', created_at_of, order)
else
    redis.call('HSET', created_at_of, order, created_at)
end
local rank = redis.call('ZRANK', queue, order)

local function join_wait_queue(at_least, answer, needed)
    local turn = rank + 1 + reserved_for_list() + (in_backlog and redis.call('ZCARD', new_orders) or 0)
    turn = math.max(turn, needed or 0)
    local function capped(wait)
        return math.min(math.max(math.ceil(wait), at_least), longest)
    end
    local wait = capped(wait_for(turn))
    -- How long requests in flight last is only estimated; they may end earlier. So `eligible-at` of the first orders
    -- omits that wait: `asking` then reserves the permit that becomes free for them, and no order behind them gets it.
    redis.call('ZADD', eligible_at, now_ms + (rank < max_in_flight and capped(allowed_in(turn)) or wait), order)
    return { answer, wait }
end

if probe then
    return may_probe() and grant() or join_wait_queue(look, 'wait')
end

if seen_for > 0 and regular and redis.call('SMISMEMBER', details_missing, order)[1] == 0 then
    local took = math.min(tonumber(list_state[6] or 0), window)
    local seen = tonumber(redis.call('ZSCORE', budget .. ':seen-in-list', order) or '-inf')
    -- One reading may show an order at its start and the next only at its end, so its duration, `took`, is added.
    if seen and seen <= now_ms and now_ms - seen <= seen_for + took then
        wait_for_list(longest)
        redis.call('HDEL', waiting_since, order)
        return { 'seen-in-list' }
    end
    local began, second = tonumber(redis.call('HGET', waiting_since, order)), window / 60
    local reading = redis.call('EXISTS', budget .. ':list-lock') == 1
    if (reading or tonumber(list_state[4]) + second > now_ms)
        and tonumber(created_at) >= tonumber(list_state[2]) and began > tonumber(list_state[1]) then
        -- Waits until the estimated end of this reading, or else of the next. A row such as REFUNDED ends the wait.
        local ends = (reading and tonumber(list_state[5]) or tonumber(list_state[4])) + took
        local wait = math.ceil(math.min(math.max(ends - now_ms, took / 4, second, look), longest))
        wait_for_list(wait)
        return { 'wait', wait }
    end
end
local needed = kept(rank) + 1
if wait_for(needed) <= 0 then
    return grant()
end
-- Only one of the first orders gets 'full'. Its job then waits in its slot, and requests a permit again when a request
-- ends.
local is_among_first = rank < 2 * max_in_flight
return join_wait_queue(1, is_among_first and allowed_in(needed) <= 0 and 'full' or 'wait', needed)
