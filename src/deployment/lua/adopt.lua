-- Assigns the jobs in Redis to another database, unless a worker is running.
-- KEYS[1]   id of the database that the jobs belong to
-- KEYS[2..] queues
-- ARGV[1]   id of the new database
-- ARGV[2]   ms after which a worker that has not reported is gone
-- ARGV[3]   'adopt', or 'look' to change nothing
-- Returns {number of running workers, id of the previous database or an empty text}.
local store, lease = take(), tonumber(take()) / 1000
local adopts = take() == 'adopt'
local before = redis.call('GET', KEYS[1]) or ''
local running = 0
for n = 2, #KEYS do
    running = math.max(running, #redis.call('ZRANGEBYSCORE', KEYS[n] .. ':workers', now() - lease, '+inf'))
end
if adopts and running == 0 then
    redis.call('SET', KEYS[1], store)
end
return { running, before }
