-- Has the jobs in Redis belong to another database, unless a worker runs.
-- KEYS id of the database that the jobs belong to, queues   ARGV: id of the database, ms after which a worker that has not reported is gone,
--   'adopt', or 'look' to change nothing
-- Returns how many workers run, and the id of the database that the jobs belonged to, or an empty text. Where workers run,
--   nothing is changed.
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
