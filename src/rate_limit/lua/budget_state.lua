-- Reads the state of the budget. It changes nothing except a TTL that is too long (`lasts_for`).
-- KEYS[1] budget
-- ARGV: requests per window, list of the fingerprints of the worker's API keys (their number, then each)
-- Returns {breaker, list, waiting new orders, waiting orders of the backlog, number of the API key in use (from 0),
--   {for each API key: requests left in this window}}
--   breaker  'open' while a breaker is open, all keys are refused or "not found" is not believed; 'half-open' while one
--            request at a time is made; otherwise 'closed'
--   list     'disabled' because it does not show the waiting orders, 'read' while it is read regularly, or 'unused'
local budget = KEYS[1]
local limit, keys = tonumber(take()), take_list()
local now_ms = math.floor(now() * 1000)

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
elseif regular and tonumber(regular) > now_ms and tonumber(began or 0) <= now_ms then
    list = 'read'
end

local left = {}
for n, of in ipairs(keys) do
    -- Expired entries, which the next request removes, are not counted.
    local used = #redis.call('ZRANGEBYSCORE', budget .. ':window-log:' .. of, '(' .. now_ms, '+inf')
    left[n] = math.max(limit - used, 0)
end

local gone = gone_from_wait_queue(budget, now_ms)
local function length(queue)
    local orders = redis.call('ZCARD', queue)
    if #gone > 0 then
        for _, score in ipairs(redis.call('ZMSCORE', queue, unpack(gone))) do
            orders = score and orders - 1 or orders
        end
    end
    return orders
end
return { breaker, list, length(budget .. ':waiting-new'), length(budget .. ':waiting-backlog'), (number or 1) - 1, left }
