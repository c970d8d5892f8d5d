-- Asks for one request to the provider.
-- KEYS[1] budget   ARGV:
--   purpose                'order' to check it, 'page' for a page of the list, which tells of many orders, or
--                          'verification' for a row of the list, which tells of the key and of the provider
--   order                  its id; without one for the other purposes
--   ms since 1970          at which the order was created
--   ms                     for which a sighting in the list counts beyond the time that a reading takes; 0 without a list
--   ms                     it may wait compared with one that asks now
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
-- Returns {'ask', ticket, number of the key from 0 up, 1 for a probe, ms waited for it},
--   {'wait', ms} where others come first or the next list will tell, {'sighted'} where the list has just shown the
--   order HANDLING, {'closed', ms} while the breaker is open, {'doubted', ms} while the key is not believed to know the
--   order, or {'refused', ms} while every key of the worker is refused
local budget = KEYS[1]
local purpose, order, created_at, sighting, patience =
    take(), take(), take(), tonumber(take()), tonumber(take())
local in_backlog = take() == '1'
local limit, window, burst, most_flying, request, lease, look, longest =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()),
    tonumber(take()), tonumber(take())
local worker, keys = take(), take_list()
local now = math.floor(now() * 1000)
-- New orders and the backlog wait in a line each.
local new_line, backlog_line = budget .. ':waiting', budget .. ':backlog'
local waiting, other_line = new_line, backlog_line
if in_backlog then
    waiting, other_line = backlog_line, new_line
end
local promised, since, turns = budget .. ':promised', budget .. ':since', budget .. ':turns'
local tracked, ready = budget .. ':tracked', budget .. ':ready'

local number, key = key_in_use(budget, keys)
if not number then
    local soonest = math.huge
    for _, refused in ipairs(keys) do
        soonest = math.min(soonest, closed_for(budget .. ':refused:' .. refused))
    end
    return { 'refused', soonest }
end
if purpose == 'verification' then
    -- The first key that is not known to be good or bad.
    for n, unknown in ipairs(keys) do
        if closed_for(budget .. ':refused:' .. unknown) == 0
            and redis.call('EXISTS', budget .. ':verified:' .. unknown) == 0 then
            number, key = n, unknown
            break
        end
    end
end
local closed = breaker_open_for(budget, key)
if closed == 0 and purpose ~= 'verification' and (purpose ~= 'order' or redis.call('SISMEMBER', budget .. ':unknown:' .. key, order) == 1) then
    -- While the answers "not found" of this key are not believed, only an order that was not asked for since may show
    -- that the key knows orders.
    closed = closed_for(budget .. ':doubted:' .. key)
    if closed > 0 and purpose == 'order' then
        redis.call('HDEL', since, order)
        return { 'doubted', closed }
    end
end
if closed > 0 then
    -- What is measured is the time in line alone.
    redis.call('HDEL', since, order)
    -- It may be over before its time: by an answer to another order, or by an operator. A reading of the list is better
    -- given up.
    return { 'closed', purpose == 'order' and math.min(closed, longest) or closed }
end
local probe = probe_of(budget, key)
local spent, flying = budget .. ':spent:' .. key, budget .. ':flying:' .. key
redis.call('ZREMRANGEBYSCORE', spent, '-inf', now)
redis.call('ZREMRANGEBYSCORE', flying, '-inf', now)
-- What lies further ahead than it can was written by a clock that has been set back since.
redis.call('ZREMRANGEBYSCORE', spent, '(' .. (now + request + window), '+inf')
redis.call('ZREMRANGEBYSCORE', flying, '(' .. (now + lease), '+inf')
local pace = window / limit
local paced = paced_until(budget, key, window, now)
local used, under_way = redis.call('ZCARD', spent), redis.call('ZCARD', flying)

-- How long until this many requests may be made, by the window and the pace.
local function allowed_in(requests)
    local wait = math.max(0, paced + (requests - burst) * pace - now)
    if used + requests > limit then
        local oldest = redis.call('ZRANGE', spent, used + requests - limit - 1, used + requests - limit - 1, 'WITHSCORES')
        wait = math.max(wait, oldest[2] and tonumber(oldest[2]) - now or requests * pace)
    end
    return wait
end

-- The same, by what is under way too.
local function wait_for(requests)
    return math.max(allowed_in(requests), pace / 2 * (under_way + requests - most_flying))
end

local function grant()
    local began = tonumber(redis.call('HGET', since, order) or now)
    leave_line(budget, order)
    if in_backlog then
        redis.call('DEL', turns)
    elseif redis.call('EXISTS', backlog_line) == 1 then
        redis.call('INCR', turns)
    end
    local ticket = redis.call('INCR', budget .. ':ticket')
    -- Until it is answered it is not known when the provider counts it; it counts here for as long as it may.
    redis.call('ZADD', spent, now + request + window, ticket)
    redis.call('PEXPIRE', spent, request + 2 * window)
    redis.call('ZADD', flying, now + lease, ticket)
    redis.call('PEXPIRE', flying, lease)
    redis.call('SET', budget .. ':paced:' .. key, paced + pace, 'PX', math.ceil(paced + pace - now + window))
    if probe then
        redis.call('SET', probe, ticket, 'PX', lease)
    else
        note_able(budget, worker, now)
    end
    -- The clock of Redis may have been set back since it began.
    return { 'ask', ticket, number - 1, probe and 1 or 0, math.max(now - began, 0) }
end

-- Whether the probe may be made now: no other is in flight. One that ends later than it can was begun before the clock
-- of Redis was set back.
local function may_probe()
    if redis.call('PTTL', probe) > lease then
        redis.call('DEL', probe)
    end
    return wait_for(1) <= 0 and redis.call('EXISTS', probe) == 0
end

-- Takes one out of the line for requests. The list may still tell of it, and reaches back to it.
local function wait_for_list(ms)
    redis.call('ZREM', waiting, order)
    redis.call('ZADD', promised, now + ms, order)
end

-- How many of the first `most` in a line ask within this time. Who was told to come later does not hold up the others,
-- and no more does who is late: when the workers are behind, everybody is, and a request that is kept for one of them is
-- used by nobody. For the same reason nobody counts beyond the first ones: what they leave is better given out of turn
-- than not at all.
local LOOKED_AT = 100
local LATE_MS = 1000
local function asking(line, most, within_ms)
    local first = redis.call('ZRANGE', line, 0, math.min(most, LOOKED_AT) - 1)
    if most < 1 or #first == 0 then
        return 0
    end
    local count = 0
    for _, at in ipairs(redis.call('ZMSCORE', promised, unpack(first))) do
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
    return tonumber(redis.call('GET', turns) or '0') >= SHARE - 1 and asking(backlog_line, LOOKED_AT, soon) > 0
end

-- How many requests are kept for a page of the list.
local function kept_for_page()
    return closed_for(budget .. ':paging') > 0 and 1 or 0
end

-- How many requests are kept for others than this order.
local function kept(rank)
    local ahead = asking(waiting, rank, 0)
    local page = kept_for_page()
    if not in_backlog then
        return ahead + page + (is_turn_of_backlog() and 1 or 0)
    end
    return ahead + (is_turn_of_backlog() and 0 or page + asking(new_line, LOOKED_AT, soon))
end

tidy_line(budget, now)

-- While the list is read again and again it tells of most orders, and requests are for those of which it does not.
-- A reading that began later than now was before the clock was set back, and tells nothing any more.
local listed = redis.call('HMGET', budget .. ':listed', 'began', 'from', 'until', 'next', 'begin', 'took')
local regular = listed[1] and tonumber(listed[1]) <= now and tonumber(listed[3]) > now

-- A page of the list answers for many new orders: the next request is kept for it, unless it is the backlog's turn.
-- While an order has waited for as long as it may, of which the list does not tell or tells no more, every other request
-- goes to the line; four of five while more cards are to be asked for than a sixth of a window's requests: a page would
-- only show more of those.
local paging, paged = budget .. ':paging', budget .. ':paged'
if purpose ~= 'order' then
    local wait = math.ceil(wait_for(1))
    if probe then
        if purpose == 'verification' and may_probe() then
            return grant()
        end
        return { 'wait', math.max(wait, look) }
    end
    -- A first reading may still tell of everybody, but for those that need a request to show their card.
    local in_turn = regular or redis.call('SCARD', ready) > 0
    local head = in_turn and redis.call('ZRANGE', waiting, 0, 0, 'WITHSCORES') or {}
    local others = redis.call('SCARD', ready) > limit / 6 and 4 or 1
    if wait <= 0 and is_turn_of_backlog() then
        redis.call('DEL', paging)
        return { 'wait', math.ceil(pace) }
    end
    if wait <= 0 and head[2] and tonumber(head[2]) <= now and redis.call('DEL', paged) == 1 then
        redis.call('DEL', paging)
        return { 'wait', math.ceil(pace * others) }
    end
    if wait <= 0 then
        redis.call('DEL', paging)
        redis.call('SET', paged, 1, 'PX', math.ceil(pace * (others + 1)))
        return grant()
    end
    close_for(paging, wait + look)
    return { 'wait', wait }
end

-- An order that changes its class keeps the time at which it came.
local came = redis.call('ZSCORE', other_line, order)
redis.call('ZREM', other_line, order)
-- Where the clock was set back since it came, it would have to let everybody go first who comes now.
redis.call('ZADD', waiting, 'LT', came or now + patience, order)
redis.call('HSETNX', since, order, now)
-- The list is read for new orders alone: the pages that show the backlog lie days back.
if in_backlog then
    redis.call('HDEL', tracked, order)
else
    redis.call('HSET', tracked, order, created_at)
end
local rank = redis.call('ZRANK', waiting, order)

local function wait_in_line(at_least)
    local turn = rank + 1 + kept_for_page() + (in_backlog and redis.call('ZCARD', new_line) or 0)
    local function capped(wait)
        return math.min(math.max(math.ceil(wait), at_least), longest)
    end
    local wait = capped(wait_for(turn))
    -- When a request comes back is a guess. It may be sooner, and then who came later must not be faster than those
    -- whose turn it is.
    redis.call('ZADD', promised, now + (rank < most_flying and capped(allowed_in(turn)) or wait), order)
    return { 'wait', wait }
end

if probe then
    -- One request is made at a time, and the other orders come back one after another.
    return may_probe() and grant() or wait_in_line(look)
end

if sighting > 0 and regular and redis.call('SMISMEMBER', ready, order)[1] == 0 then
    local took = math.min(tonumber(listed[6] or 0), window)
    local seen = tonumber(redis.call('ZSCORE', budget .. ':sighted', order) or '-inf')
    -- Between two sightings of an order lies a whole reading.
    if seen and seen <= now and now - seen <= sighting + took then
        wait_for_list(longest)
        redis.call('HDEL', since, order)
        return { 'sighted' }
    end
    local began, second = tonumber(redis.call('HGET', since, order)), window / 60
    local reading = redis.call('EXISTS', budget .. ':listing') == 1
    if (reading or tonumber(listed[4]) + second > now)
        and tonumber(created_at) >= tonumber(listed[2]) and began > tonumber(listed[1]) then
        -- Until it is read to its end, if that takes as long as last time. What it decides before wakes its order.
        local ends = (reading and tonumber(listed[5]) or tonumber(listed[4])) + took
        local wait = math.ceil(math.min(math.max(ends - now, took / 4, second, look), longest))
        wait_for_list(wait)
        return { 'wait', wait }
    end
end
if wait_for(kept(rank) + 1) <= 0 then
    return grant()
end
return wait_in_line(1)
