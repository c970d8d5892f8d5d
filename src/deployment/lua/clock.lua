-- The time of the deployment: the clock of Redis and an offset that keeps it going evenly where that clock is set.
-- KEYS[1] clock   ARGV: ms since 1970 as the worker reckons it, empty where it does not know yet; the clock of Redis in ms
--   as the worker expects it, to have its own time taken for that of the deployment, otherwise empty
-- Returns the clock of Redis in ms, the time of the deployment in ms, and
--   `agrees` where the worker's time is that of the deployment, `others-agree` where only other workers' was lately, or
--   `alone` where no worker's was; also of a worker that does not know the time yet
-- Fields of the clock: `offset` in ms; `at`, when it was set; `agreed`, when a worker last agreed; both by Redis.
local TOLERATED_MS, LATELY_MS, EXPECTED_WITHIN_MS = 1000, 10000, 1000
-- In so much time the offset shrinks by a hundredth of it, so that the deployment finds back to the clock of Redis.
local SHRINKS_BY = 0.01
local clock, mine, expected = KEYS[1], tonumber(take()), tonumber(take())
local time = math.floor(now() * 1000 + 0.5)

local stored = redis.call('HMGET', clock, 'offset', 'at', 'agreed')
local offset, at, agreed = tonumber(stored[1] or 0), tonumber(stored[2] or time), tonumber(stored[3] or -1)
local left = math.max(0, math.abs(offset) - SHRINKS_BY * math.max(0, time - at))
offset = math.floor(offset < 0 and -left or left)

local verdict = 'alone'
if mine and math.abs(mine - time - offset) <= TOLERATED_MS then
    verdict = 'agrees'
    redis.call('HSET', clock, 'agreed', time)
elseif time >= agreed and time - agreed < LATELY_MS then
    verdict = 'others-agree'
elseif mine and expected and math.abs(time - expected) <= EXPECTED_WITHIN_MS then
    -- A call that was held up on its way is not carried out: its time is of the past.
    verdict = 'agrees'
    offset = mine - time
    redis.call('HSET', clock, 'offset', offset, 'at', time, 'agreed', time)
end
return { time, time + offset, verdict }
