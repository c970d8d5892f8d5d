-- Removes the registration of a worker that stops, and returns the jobs that it still holds to their queue.
-- KEYS[1] queue
-- KEYS[2] number of the last batch that this consumer settled
-- ARGV[1] worker
-- Returns the number of jobs that went back.
local queue, worker = KEYS[1], ARGV[1]
local inflight = queue .. ':inflight:' .. worker
local held = redis.call('SMEMBERS', inflight)
for _, id in ipairs(held) do
    give_back(queue, id)
end
redis.call('DEL', inflight, KEYS[2])
redis.call('ZREM', queue .. ':workers', worker)
place()
return #held
