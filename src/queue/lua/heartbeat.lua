-- Renews the lease of a worker on all its jobs, or registers a worker.
-- KEYS[1] queue   ARGV: worker, 1 to register
-- Returns the number of jobs the worker holds, or -1 for one that was taken for dead meanwhile.
local workers = KEYS[1] .. ':workers'
if ARGV[2] ~= '1' and not redis.call('ZSCORE', workers, ARGV[1]) then
    return -1
end
redis.call('ZADD', workers, now(), ARGV[1])
return redis.call('SCARD', KEYS[1] .. ':inflight:' .. ARGV[1])
