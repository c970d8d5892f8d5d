-- Makes jobs due that are overdue according to the database. If Redis has scheduled such a job for a time far ahead,
-- the clock of Redis was moved back. A job that only waits for a permit is due soon and is not moved.
-- KEYS[1..] queues in which the jobs may be
-- ARGV[1]   ms within which a job that waits for a permit runs again
-- ARGV[2..] ids of overdue jobs
-- Returns the number of jobs made due.
local soon = now() + tonumber(take()) / 1000
local hastened = 0
while at < #ARGV do
    local id = take()
    for n = 1, #KEYS do
        local due = redis.call('ZSCORE', KEYS[n] .. ':scheduled', id)
        if due and tonumber(due) > soon then
            schedule(KEYS[n], id, 0)
            redis.call('ZREM', KEYS[n] .. ':scheduled', id)
            hastened = hastened + 1
        end
    end
end
place()
return hastened
