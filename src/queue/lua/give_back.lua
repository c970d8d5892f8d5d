-- Gives back jobs that stand as claimed by a worker which does not know of them: the answer to its claim
-- was lost, or Redis came back with older data.
-- KEYS[1] queue   ARGV: worker, ids
-- Returns the number of jobs given back.
local queue = KEYS[1]
local given = 0
for at = 2, #ARGV do
    if redis.call('SREM', queue .. ':inflight:' .. ARGV[1], ARGV[at]) == 1 then
        redis.call('LPUSH', queue .. ':active', ARGV[at])
        given = given + 1
    end
end
if given > 0 then
    wake(queue)
end
return given
