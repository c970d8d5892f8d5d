-- Makes the jobs of workers whose lease has expired due for other workers. Each of these jobs becomes a suspect, as it
-- may have killed its worker. (The worker may also have been killed, frozen or cut off for another reason.)
-- KEYS[1] queue
-- ARGV[1] lease in ms
-- ARGV[2] maximum number of jobs to move from one worker
-- Returns the number of jobs moved.
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
