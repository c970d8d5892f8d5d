-- Clears jobs of the suspicion that they killed their worker. The worker was presumed dead, but it is alive.
-- KEYS[1]   queue
-- ARGV[1]   name under which the worker held the jobs
-- ARGV[2..] ids of the jobs
-- Returns the number of jobs that are no longer suspects.
local queue, worker = KEYS[1], take()
local acquitted = 0
while at < #ARGV do
    local meta = queue .. ':meta:' .. take()
    -- If the job was a suspect already, because of another worker that was presumed dead, it stays one.
    if redis.pcall('HMGET', meta, 'lost_with')[1] == worker then
        acquitted = acquitted + redis.call('HDEL', meta, 'lost_with')
    end
end
return acquitted
