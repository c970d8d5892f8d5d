-- Gives the jobs of workers whose lease has run out to the others.
-- KEYS[1] queue   ARGV: lease in ms, crashes that make a job poison, most jobs to move
-- Returns {jobs given on, ids buried as poison}
local queue = KEYS[1]
local lease, most_crashes, most = tonumber(ARGV[1]) / 1000, tonumber(ARGV[2]), tonumber(ARGV[3])
local workers = queue .. ':workers'
local moved, buried = 0, {}

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', workers, '-inf', now() - lease, 'LIMIT', 0, 16)) do
    local inflight = queue .. ':inflight:' .. worker
    for _, id in ipairs(redis.call('SPOP', inflight, most)) do
        if crashed(queue, id, most_crashes) then
            buried[#buried + 1] = id
        else
            moved = moved + 1
        end
    end
    if redis.call('EXISTS', inflight) == 0 then
        redis.call('ZREM', workers, worker)
    end
end
place()
return { moved, buried }
