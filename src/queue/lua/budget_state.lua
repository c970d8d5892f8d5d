-- Tells how the budget stands, by the clock of Redis, and changes nothing.
-- KEYS[1] budget   ARGV: requests a window, number of keys
-- Returns {gate, list, new orders in line, orders of the backlog in line, key in use, {for each key: requests left in this window}}
--   gate   'closed' while nobody may ask, 'probing' while one asks for all, otherwise 'open'
--   list   'left' while it is not read since it does not help, 'read' while it is read again and again, otherwise
--          'unused'
local budget = KEYS[1]
local limit, keys = tonumber(take()), tonumber(take())
local now = math.floor(now() * 1000)

local gate = 'open'
if redis.call('PTTL', budget .. ':gate') > 0 then
    gate = 'closed'
elseif redis.call('EXISTS', budget .. ':proven') == 0 then
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
for key = 0, keys - 1 do
    -- What is over is removed by whoever asks; until then it is not counted.
    local used = #redis.call('ZRANGEBYSCORE', budget .. ':spent:' .. key, '(' .. now, '+inf')
    left[key + 1] = math.max(limit - used, 0)
end

local gone = gone_from_line(budget, now)
local function length(line)
    local orders = redis.call('ZCARD', line)
    if #gone > 0 then
        for _, place in ipairs(redis.call('ZMSCORE', line, unpack(gone))) do
            orders = place and orders - 1 or orders
        end
    end
    return orders
end
return { gate, list, length(budget .. ':waiting'), length(budget .. ':backlog'), key_in_use(budget, keys), left }
