-- Reads the state of the budget, by the clock of Redis, and changes nothing.
-- KEYS[1] budget   ARGV: requests a window, list of the fingerprints of the worker's keys (their number, then each)
-- Returns {breaker, list, new orders that wait, orders of the backlog that wait, number of the key in use from 0 up,
-- {for each key: requests left in this window}}
--   breaker  'open' while no order may be checked, 'half-open' while one request at a time is made, otherwise 'closed'
--   list     'disabled' while it is not read since it does not help, 'read' while it is read again and again,
--            otherwise 'unused'
local budget = KEYS[1]
local limit, keys = tonumber(take()), take_list()
local now = math.floor(now() * 1000)

local number, key = key_in_use(budget, keys)
local breaker = 'closed'
if not number or breaker_open_for(budget, key) > 0 or lasts_for(budget .. ':mistrusted:' .. key) > 0 then
    breaker = 'open'
elseif probe_of(budget, key) then
    breaker = 'half-open'
end

local list = 'unused'
local began, regular = unpack(redis.call('HMGET', budget .. ':list-state', 'began', 'until'))
if redis.call('EXISTS', budget .. ':list-disabled') == 1 then
    list = 'disabled'
elseif regular and tonumber(regular) > now and tonumber(began or 0) <= now then
    list = 'read'
end

local left = {}
for n, of in ipairs(keys) do
    -- What is over is removed with the next request; until then it is not counted.
    local used = #redis.call('ZRANGEBYSCORE', budget .. ':window-log:' .. of, '(' .. now, '+inf')
    left[n] = math.max(limit - used, 0)
end

local gone = gone_from_wait_queue(budget, now)
local function length(queue)
    local orders = redis.call('ZCARD', queue)
    if #gone > 0 then
        for _, at in ipairs(redis.call('ZMSCORE', queue, unpack(gone))) do
            orders = at and orders - 1 or orders
        end
    end
    return orders
end
return { breaker, list, length(budget .. ':waiting-new'), length(budget .. ':waiting-backlog'), (number or 1) - 1, left }
