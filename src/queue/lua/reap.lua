-- Gives the jobs of workers whose lease has run out to the others.
-- KEYS[1] queue   ARGV: lease in ms, crashes a job may have caused, most jobs to move
-- Returns {jobs given on, ids buried as poison}
local queue = KEYS[1]
local lease, crashes, most = tonumber(ARGV[1]) / 1000, tonumber(ARGV[2]), tonumber(ARGV[3])
local workers = queue .. ':workers'
local moved, buried = 0, {}

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', now() - lease, 'LIMIT', 0, 16)) do
    local inflight = queue .. ':inflight:' .. worker
    for _, id in ipairs(redis.call('SPOP', inflight, most)) do
        local crashed = redis.pcall('HINCRBY', queue .. ':meta:' .. id, 'crashes', 1)
        if type(crashed) == 'number' and crashed >= crashes then
            bury(queue, id, 'poison: its worker died ' .. crashed .. ' times while running it')
            buried[#buried + 1] = id
        else
            redis.call('RPUSH', queue .. ':active', id)
            moved = moved + 1
        end
    end
    if redis.call('EXISTS', inflight) == 0 then
        redis.call('ZREM', workers, worker)
    end
end
if moved > 0 then
    wake(queue)
end
return { moved, buried }
