-- Tells how the budget stands, by the clock of Redis, and changes nothing.
-- KEYS[1] budget   ARGV: requests a window, list of the fingerprints of the worker's keys (their number, then each)
-- Returns {gate, list, new orders in line, orders of the backlog in line, number of the key in use from 0 up, {for each key:
-- requests left in this window}}
--   gate   'closed' while no order may be checked, 'probing' while one request at a time is made, otherwise 'open'
--   list   'left' while it is not read since it does not help, 'read' while it is read again and again, otherwise
--          'unused'
local budget = KEYS[1]
local limit, keys = tonumber(take()), take_list()
local now = math.floor(now() * 1000)

local number, key = key_in_use(budget, keys)
local gate = 'open'
if not number or breaker_open_for(budget, key) > 0 or closed_for(budget .. ':doubted:' .. key) > 0 then
    gate = 'closed'
elseif probe_of(budget, key) then
    gate = 'probing'
end

local list = 'unused'
local began, regular = unpack(redis.call('HMGET', budget .. ':listed', 'began', 'until'))
if redis.call('EXISTS', budget .. ':unlisted') == 1 then
    list = 'left'
elseif regular and tonumber(regular) > now and tonumber(began or 0) <= now then
    list = 'read'
end

local left = {}
for n, of in ipairs(keys) do
    -- What is over is removed with the next request; until then it is not counted.
    local used = #redis.call('ZRANGEBYSCORE', budget .. ':spent:' .. of, '(' .. now, '+inf')
    left[n] = math.max(limit - used, 0)
end

local gone = gone_from_line(budget, now)
local function length(line)
    local orders = redis.call('ZCARD', line)
    if #gone > 0 then
        for _, at in ipairs(redis.call('ZMSCORE', line, unpack(gone))) do
            orders = at and orders - 1 or orders
        end
    end
    return orders
end
return { gate, list, length(budget .. ':waiting'), length(budget .. ':backlog'), (number or 1) - 1, left }
