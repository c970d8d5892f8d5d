-- Drops the oldest rejected messages where there are too many, or where they take too much memory, and counts them.
-- KEYS[1] rejected   KEYS[2] how many were dropped so far   ARGV: most messages, most bytes
-- Returns how many were dropped now
local rejected, most_bytes = KEYS[1], tonumber(ARGV[2])
local length = redis.call('XLEN', rejected)
local dropped = 0

local function keep(newest)
    dropped = dropped + redis.call('XTRIM', rejected, 'MAXLEN', newest)
    length = newest
end

-- As Redis counts it; nothing where this user may not ask.
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
