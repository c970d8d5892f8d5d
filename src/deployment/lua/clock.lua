-- Reads the deployment's time, which is the clock of Redis plus an offset. If the clock of Redis is set to another
-- time, a worker corrects the offset, so that the deployment's time does not jump.
-- KEYS[1] hash, all in ms: `offset`, `at` (when it was set), `agreed` (when a worker last had the deployment's time)
-- ARGV[1] time of the deployment according to the worker, in ms since 1970, or empty
-- ARGV[2] time in ms that the worker expects the clock of Redis to show, or empty. If the clock is close to it and no
--         worker has agreed lately, ARGV[1] becomes the deployment's time.
-- Returns {clock of Redis in ms, time of the deployment in ms, verdict}. The verdict is 'agrees' if the worker's time
--   is the deployment's, 'others-agree' if only other workers have agreed lately, 'alone' if none has.
local TOLERATED_MS, LATELY_MS, EXPECTED_WITHIN_MS = 1000, 10000, 1000
-- The offset shrinks by 10 ms a second, until the deployment's time equals the time of Redis again.
local SHRINKS_BY = 0.01
local clock, mine, expected = KEYS[1], tonumber(take()), tonumber(take())
local time = math.floor(now() * 1000 + 0.5)

local stored = redis.call('HMGET', clock, 'offset', 'at', 'agreed')
local offset, set_at, agreed = tonumber(stored[1] or 0), tonumber(stored[2] or time), tonumber(stored[3] or -1)
local left = math.max(0, math.abs(offset) - SHRINKS_BY * math.max(0, time - set_at))
offset = math.floor(offset < 0 and -left or left)

local verdict = 'alone'
if mine and math.abs(mine - time - offset) <= TOLERATED_MS then
    verdict = 'agrees'
    redis.call('HSET', clock, 'agreed', time)
elseif time >= agreed and time - agreed < LATELY_MS then
    verdict = 'others-agree'
elseif mine and expected and math.abs(time - expected) <= EXPECTED_WITHIN_MS then
    -- A call that was delayed on its way, so that `mine` is outdated, is not accepted: `time` is later than `expected`.
    verdict = 'agrees'
    offset = mine - time
    redis.call('HSET', clock, 'offset', offset, 'at', time, 'agreed', time)
end
return { time, time + offset, verdict }
