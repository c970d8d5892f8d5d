-- Drops the oldest rejected messages until their number and their memory are within the limits, and counts the drops.
-- KEYS[1] rejected messages
-- KEYS[2] counter of dropped messages
-- ARGV[1] maximum number of messages
-- ARGV[2] maximum bytes of memory
-- Returns the number of messages dropped by this call.
local rejected, most_bytes = KEYS[1], tonumber(ARGV[2])
local length = redis.call('XLEN', rejected)
local dropped = 0

local function keep(newest)
    dropped = dropped + redis.call('XTRIM', rejected, 'MAXLEN', newest)
    length = newest
end

-- Returns the memory of the rejected messages, or 0 if the Redis user lacks the permission to read it.
local function bytes()
    local usage = redis.pcall('MEMORY', 'USAGE', rejected, 'SAMPLES', 0)
    return type(usage) == 'number' and usage or 0
end

if length > tonumber(ARGV[1]) then
    keep(tonumber(ARGV[1]))
end
while length > 1 and bytes() > most_bytes do
    keep(length - math.ceil(length / 8))
end
if dropped > 0 then
    redis.call('INCRBY', KEYS[2], dropped)
end
return dropped
