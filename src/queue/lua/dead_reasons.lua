-- Reads why jobs are dead letters.
-- KEYS[1..] queues in which the same job may be
-- ARGV[1..] ids
-- Returns for each id {reason, 1 if a command is replaying the dead letter or 0}. The reason is empty if the job is not
--   a dead letter, or if one of the queues holds the job to run it.
local function look(id)
    local found, replaying = '', 0
    for n = 1, #KEYS do
        if redis.call('SMISMEMBER', KEYS[n] .. ':dead', id)[1] == 1 then
            local history = redis.pcall('HMGET', KEYS[n] .. ':meta:' .. id, 'reason', 'replaying')
            found, replaying = history[1] or 'a dead letter', history[2] and 1 or 0
        elseif redis.call('HEXISTS', KEYS[n] .. ':data', id) == 1 then
            return { '', 0 }
        end
    end
    return { found, replaying }
end

local results = {}
for n, id in ipairs(ARGV) do
    results[n] = look(id)
end
return results
