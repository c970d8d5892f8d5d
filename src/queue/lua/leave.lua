-- Ends the registration of a worker that stops; jobs it still holds go back at once.
-- KEYS[1] queue   KEYS[2] the last batch of this consumer   ARGV: worker
-- Returns the number of jobs given back.
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
