-- Closes the gate for everybody, unless it is closed for longer already.
-- KEYS[1] gate   KEYS[2] unproven   KEYS[3] probe   ARGV: ms
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then
    redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
end
redis.call('SET', KEYS[2], 1)
redis.call('DEL', KEYS[3])
return 1
