-- Has the next one ask alone, as after a closure. With other keys than before, what is known of those is forgotten.
-- KEYS[1] budget   ARGV: fingerprint of the keys
-- Returns nothing
local budget = KEYS[1]
if redis.call('GET', budget .. ':keys') ~= ARGV[1] then
    redis.call('SET', budget .. ':keys', ARGV[1])
    for _, of in ipairs({ 'gate', 'key', 'refused:0', 'refused:1', 'told', 'probe' }) do
        redis.call('DEL', budget .. ':' .. of)
    end
end
redis.call('DEL', budget .. ':proven')
