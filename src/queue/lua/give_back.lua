-- Gives back jobs that stand as claimed by a worker which does not know of them: the answer to its claim
-- was lost, or Redis came back with older data.
-- KEYS[1] queue   ARGV: worker, ids
-- Returns the number of jobs given back.
local queue, inflight = KEYS[1], KEYS[1] .. ':inflight:' .. ARGV[1]
local given = 0
for at = 2, #ARGV do
    if redis.call('SREM', inflight, ARGV[at]) == 1 then
        give_back(queue, ARGV[at])
        given = given + 1
    end
end
place()
return given
