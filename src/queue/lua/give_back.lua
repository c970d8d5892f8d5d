-- Returns orphaned claims to their queue: jobs that Redis counts as claimed by a worker although the worker does not
-- hold them. A claim is orphaned if the answer of claim.lua was lost, or if Redis has lost its latest writes.
-- KEYS[1]   queue
-- ARGV[1]   worker
-- ARGV[2..] ids
-- Returns the number of jobs that went back.
local queue, inflight = KEYS[1], KEYS[1] .. ':inflight:' .. ARGV[1]
local given = 0
for n = 2, #ARGV do
    if redis.call('SREM', inflight, ARGV[n]) == 1 then
        give_back(queue, ARGV[n])
        given = given + 1
    end
end
place()
return given
