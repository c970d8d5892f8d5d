-- Renews the leases of a worker's requests in flight.
-- KEYS[1] budget   ARGV: ms for which that counts, then for each request: fingerprint of its key, permit
-- Returns nothing
local budget, lease = KEYS[1], tonumber(take())
local now = math.floor(now() * 1000)
while at < #ARGV do
    local key, permit = take(), take()
    local in_flight = budget .. ':in-flight:' .. key
    redis.call('ZADD', in_flight, 'XX', now + lease, permit)
    redis.call('PEXPIRE', in_flight, lease)
    for _, probe in ipairs({ budget .. ':probe', budget .. ':probe:' .. key }) do
        if redis.call('GET', probe) == permit then
            redis.call('PEXPIRE', probe, lease)
        end
    end
end
