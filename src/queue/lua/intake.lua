-- Moves messages out of the inbox: into a queue, to the rejected ones, or away where the order is already
-- followed. A message is deleted last, in the same step: no crash and no second worker can lose or double it.
-- KEYS[1] inbox   KEYS[2] rejected   KEYS[3..] queues in which an order may already be followed
-- ARGV, for each message: id, then `reject` and the reason,
--   or `accept` and queue, id of the job, payload, delay in ms
-- Returns for each message `gone`, `rejected`, `duplicate` or `accepted`
local inbox, rejected = KEYS[1], KEYS[2]
local MOST_FIELDS = 1000
local function followed(id)
    for queue = 3, #KEYS do
        forget_dead_letter(KEYS[queue], id)
        if redis.call('HEXISTS', KEYS[queue] .. ':data', id) == 1 then
            return true
        end
    end
    return false
end

local function reject(message, fields, reason)
    if #fields > MOST_FIELDS then
        -- More than a script can hand on one by one: kept whole, as one MessagePack array.
        fields = { 'fields', cmsgpack.pack(fields) }
    end
    redis.call('XADD', rejected, '*', 'id', message, 'reason', reason, unpack(fields))
    return 'rejected'
end

local function accept(queue, id, payload, delay_ms)
    if followed(id) then
        return 'duplicate'
    end
    push(queue, id, payload, delay_ms)
    return 'accepted'
end

local results = {}
while at < #ARGV do
    local message, verdict = take(), take()
    local entry = redis.call('XRANGE', inbox, message, message)[1]
    local result = 'gone'
    if verdict == 'reject' then
        local reason = take()
        result = entry and reject(message, entry[2], reason) or result
    else
        local queue, id, payload, delay_ms = take(), take(), take(), tonumber(take())
        result = entry and accept(queue, id, payload, delay_ms) or result
    end
    redis.call('XDEL', inbox, message)
    results[#results + 1] = result
end
return results
