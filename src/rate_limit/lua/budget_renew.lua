-- Renews the leases of a worker's requests in flight.
-- KEYS[1] budget
-- ARGV: duration of a lease in ms, then for each request: fingerprint of its API key, permit number
-- Returns nothing
local budget, lease = KEYS[1], tonumber(take())
local now_ms = math.floor(now() * 1000)
while at < #ARGV do
    local key, permit = take(), take()
    local in_flight = budget .. ':in-flight:' .. key
    redis.call('ZADD', in_flight, 'XX', now_ms + lease, permit)
    redis.call('PEXPIRE', in_flight, lease)
    for _, probe in ipairs({ budget .. ':probe', budget .. ':probe:' .. key }) do
        if redis.call('GET', probe) == permit then
            redis.call('PEXPIRE', probe, lease)
        end
    end
end
