-- Asks for one request to the provider.
-- KEYS[1] budget   ARGV:
--   purpose                'order' to check it, 'page' for a page of the list, which tells of many orders, or
--                          'verification' for a row of the list, which tells of the key and of the provider
--   order                  its id; without one for the other purposes
--   ms since 1970          at which the order was created
--   ms                     for which a sighting in the list counts beyond the time that a reading takes; 0 without a list
--   ms                     it may wait compared with one that asks now
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
--   order HANDLING, {'closed', ms} while the breaker is open, or {'refused', ms} while every key of the worker is refused
local budget = KEYS[1]
local purpose, order, created_at, sighting, patience =
    take(), take(), take(), tonumber(take()), tonumber(take())
local limit, window, burst, most_flying, request, lease, look, longest =
    tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()), tonumber(take()),
    tonumber(take()), tonumber(take())
local worker, keys = take(), take_list()
local now = math.floor(now() * 1000)
local waiting, promised, since = budget .. ':waiting', budget .. ':promised', budget .. ':since'
local tracked, ready = budget .. ':tracked', budget .. ':ready'

local number, key = key_in_use(budget, keys)
if not number then
    local soonest = math.huge
    for _, refused in ipairs(keys) do
        soonest = math.min(soonest, closed_for(budget .. ':refused:' .. refused))
    end
    return { 'refused', soonest }
end
local closed = breaker_open_for(budget, key)
if closed == 0 and (purpose ~= 'order' or redis.call('SISMEMBER', budget .. ':unknown:' .. key, order) == 1) then
    -- While the answers "not found" of this key are not believed, only an order that was not asked for since may show
    -- that the key knows orders.
    closed = closed_for(budget .. ':doubted:' .. key)
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

-- How many of those ahead are about to ask. Who was told to come later does not hold up the others, and no more does
-- who is late: when the workers are behind, everybody is, and a request that is kept for one of them is used by nobody.
-- For the same reason nobody counts beyond the first ones: what they leave is better given out of turn than not at all.
local LOOKED_AT = 100
local LATE_MS = 1000
local function ahead(rank)
    if rank == 0 then
        return 0
    end
    local first = redis.call('ZRANGE', waiting, 0, math.min(rank, LOOKED_AT) - 1)
    local due = 0
    for _, at in ipairs(redis.call('ZMSCORE', promised, unpack(first))) do
        if not at or (tonumber(at) <= now and tonumber(at) > now - LATE_MS) then
            due = due + 1
        end
    end
    return due
end

tidy_line(budget, now)

-- While the list is read again and again it tells of most orders, and requests are for those of which it does not.
-- A reading that began later than now was before the clock was set back, and tells nothing any more.
local listed = redis.call('HMGET', budget .. ':listed', 'began', 'from', 'until', 'next', 'begin', 'took')
local regular = listed[1] and tonumber(listed[1]) <= now and tonumber(listed[3]) > now

-- A page of the list answers for many: the next request is kept for it. While an order has waited for as long as it
-- may, of which the list does not tell or tells no more, every other request goes to the line.
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
    if wait <= 0 and head[2] and tonumber(head[2]) <= now and redis.call('DEL', paged) == 1 then
        redis.call('DEL', paging)
        return { 'wait', math.ceil(pace) }
    end
    if wait <= 0 then
        redis.call('DEL', paging)
        redis.call('SET', paged, 1, 'PX', math.ceil(2 * pace))
        return grant()
    end
    redis.call('SET', paging, 1, 'PX', wait + look)
    return { 'wait', wait }
end

-- Where the clock was set back since it came, it would have to let everybody go first who comes now.
redis.call('ZADD', waiting, 'LT', now + patience, order)
redis.call('HSETNX', since, order, now)
redis.call('HSET', tracked, order, created_at)
local rank = redis.call('ZRANK', waiting, order)

local function wait_in_line(at_least)
    local turn = rank + 1 + redis.call('EXISTS', paging)
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
if wait_for(ahead(rank) + 1 + redis.call('EXISTS', paging)) <= 0 then
    return grant()
end
return wait_in_line(1)
