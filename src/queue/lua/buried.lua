-- Why jobs are dead letters, of those that no worker will run any more.
-- KEYS: queues in which the same job may be   ARGV: ids
-- Returns for each id the reason, or an empty text where it is no dead letter or waits in another of the queues
local function reason(id)
    local found = ''
    for n = 1, #KEYS do
        if redis.call('SMISMEMBER', KEYS[n] .. ':dead', id)[1] == 1 then
            local told = redis.pcall('HMGET', KEYS[n] .. ':meta:' .. id, 'reason')[1]
            found = told or 'a dead letter'
        elseif redis.call('HEXISTS', KEYS[n] .. ':data', id) == 1 then
            return ''
        end
    end
    return found
end

local reasons = {}
for n, id in ipairs(ARGV) do
    reasons[n] = reason(id)
end
return reasons
