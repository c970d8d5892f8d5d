-- Marks dead letters that a command is about to replay. The command then changes the database and makes the jobs due.
-- If the command dies after the mark, a worker finds the mark and completes the replay.
-- KEYS[1]   queue
-- KEYS[2..] other queues in which the same job may be
-- ARGV[1..] ids
-- Returns for each id 1, or 0 if the job is not a dead letter or another queue holds it.
local queue = KEYS[1]

local function mark(id)
    if redis.call('SMISMEMBER', queue .. ':dead', id)[1] == 0 then
        return 0
    end
    for n = 2, #KEYS do
        local dead = redis.call('SMISMEMBER', KEYS[n] .. ':dead', id)[1]
        if dead == 0 and redis.call('HEXISTS', KEYS[n] .. ':data', id) == 1 then
            return 0
        end
    end
    redis.pcall('HSET', queue .. ':meta:' .. id, 'replaying', 1)
    return 1
end

local results = {}
for n, id in ipairs(ARGV) do
    results[n] = mark(id)
end
return results
