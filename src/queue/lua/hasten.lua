-- Has jobs run at once that are late by the store: their time has come there, and here they wait for longer than a
-- job does that waits for a request. The clock of Redis was set back after they were scheduled.
-- KEYS: queues in which the jobs may be   ARGV: ms within which a job that waits for a request runs again, ids
-- Returns the number of jobs that are due now
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
