-- Whether the provider may be asked.
-- KEYS[1] gate   KEYS[2] unproven   KEYS[3] probe   ARGV: ms a probe may take, ms to wait for its answer
-- Returns {ms not to ask, 0 if open, and 1 where the asker is the probe}
local left = redis.call('PTTL', KEYS[1])
if left > 0 then
    return { left, 0 }
end
if redis.call('EXISTS', KEYS[2]) == 0 then
    return { 0, 0 }
end
-- The key is not known to be good: one asks for all.
if redis.call('SET', KEYS[3], 1, 'PX', ARGV[1], 'NX') then
    return { 0, 1 }
end
return { tonumber(ARGV[2]), 0 }
