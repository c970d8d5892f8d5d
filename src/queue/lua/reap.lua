-- Gives the jobs of workers whose lease has run out to the others. Each becomes a suspect, unless it is one already:
-- it may have killed its worker, or be one of many that the worker held when it was killed, frozen or cut off.
-- KEYS[1] queue   ARGV: lease in ms, most jobs to move
-- Returns the number of jobs given on
local queue = KEYS[1]
local lease, most = tonumber(ARGV[1]) / 1000, tonumber(ARGV[2])
local workers = queue .. ':workers'
local moved = 0

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', now() - lease, 'LIMIT', 0, 16)) do
    local inflight = queue .. ':inflight:' .. worker
    for _, id in ipairs(redis.call('SPOP', inflight, most)) do
        redis.pcall('HSETNX', queue .. ':meta:' .. id, 'lost_with', worker)
        schedule(queue, id, 0)
        moved = moved + 1
    end
    if redis.call('EXISTS', inflight) == 0 then
        redis.call('ZREM', workers, worker)
    end
end
place()
return moved
