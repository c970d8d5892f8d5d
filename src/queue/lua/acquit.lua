-- Takes back that jobs are suspects: the worker that held them was taken for dead, and lives.
-- KEYS[1] queue   ARGV: the name under which the worker held them, their ids
-- Returns the number of jobs that are suspects no longer
local queue, worker = KEYS[1], take()
local acquitted = 0
while at < #ARGV do
    local meta = queue .. ':meta:' .. take()
    -- One that was lost with another worker before stays a suspect.
    if redis.pcall('HMGET', meta, 'lost_with')[1] == worker then
        acquitted = acquitted + redis.call('HDEL', meta, 'lost_with')
    end
end
return acquitted
