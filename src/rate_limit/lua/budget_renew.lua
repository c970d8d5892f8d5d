-- Renews that requests of a worker are in flight.
-- KEYS[1] budget   ARGV: ms for which that counts, then for each request: fingerprint of its key, ticket
-- Returns nothing
local budget, lease = KEYS[1], tonumber(take())
local now = math.floor(now() * 1000)
while at < #ARGV do
    local key, ticket = take(), take()
    local flying = budget .. ':flying:' .. key
    redis.call('ZADD', flying, 'XX', now + lease, ticket)
    redis.call('PEXPIRE', flying, lease)
    for _, probe in ipairs({ budget .. ':probe', budget .. ':probe:' .. key }) do
        if redis.call('GET', probe) == ticket then
            redis.call('PEXPIRE', probe, lease)
        end
    end
end
