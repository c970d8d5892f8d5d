-- Has a worker join its deployment, or stay in it, unless it differs in what all of its workers must share.
-- KEYS number of the layout of all keys, id of the database, set of the workers, then the queues   ARGV: layout that the
--   program knows, id of its database, ms after which a worker that has not joined anew is gone, ms after which one
--   that does not report to its queues is gone, name of the worker, what it does ('join'; 'claim', where it has waited
--   for others to report; 'stay', where it has joined before; or 'look' to change nothing), fingerprints of its
--   encryption keys (their number, then each of them), the current key's first
-- Returns {word, detail}: 'joined'; 'layout' with that of a newer program; 'store' with the id of the database that the
--   jobs belong to; or 'keys' with a worker whose keys differ, as it stands in the set. For one that is to join, all
--   such workers are removed: they add themselves again within seconds if they live. 'fits' for one that looks.
--   Where no database is noted, 'unclaimed' for one that joins: Redis may have lost its data beside running workers of
--   another database, which are called upon to report; and 'others' for one that claims while any do.
local layout_key, store_key, members = KEYS[1], KEYS[2], KEYS[3]
local layout, store, lease = tonumber(take()), take(), tonumber(take()) / 1000
local reported_within, name, what = tonumber(take()) / 1000, take(), take()
local joins = what ~= 'look'
local keys = take_list()

local found = tonumber(redis.call('GET', layout_key) or 0) or 0
if found > layout then
    return { 'layout', tostring(found) }
end
local other_store = redis.call('GET', store_key)
if other_store and other_store ~= store then
    return { 'store', other_store }
end

if not other_store and what == 'join' then
    for n = 4, #KEYS do
        redis.call('PUBLISH', KEYS[n] .. ':wake', '')
    end
    return { 'unclaimed', '' }
end
if not other_store and what == 'claim' then
    for n = 4, #KEYS do
        local since = now() - reported_within
        if #redis.call('ZRANGEBYSCORE', KEYS[n] .. ':workers', since, '+inf', 'LIMIT', 0, 1) > 0 then
            return { 'others', '' }
        end
    end
end

-- Each must decrypt what the other encrypts with its current key. A member is the name and the fingerprints.
local member = name .. ' ' .. table.concat(keys, ' ')
local mine = ' ' .. table.concat(keys, ' ') .. ' '
local others = redis.call('ZRANGE', members, 0, -1, 'WITHSCORES')
local differs
for n = 1, #others, 2 do
    local other, seen = others[n], tonumber(others[n + 1])
    local of, theirs = string.match(other, '^(%S+) (.+)$')
    local current = theirs and string.match(theirs, '^%S+')
    -- The clock of Redis may have been set.
    if math.abs(now() - seen) > lease then
        if joins then
            redis.call('ZREM', members, other)
        end
    elseif of and of ~= name
        and not (string.find(mine, ' ' .. current .. ' ', 1, true)
            and string.find(' ' .. theirs .. ' ', ' ' .. keys[1] .. ' ', 1, true)) then
        differs = other
        if joins then
            redis.call('ZREM', members, other)
        end
    end
end
if differs then
    return { 'keys', differs }
end

if not joins then
    return { 'fits', '' }
end
if found < layout then
    redis.call('SET', layout_key, layout)
    -- Older workers look again, and find that they must stop.
    redis.call('DEL', members)
end
if not other_store then
    redis.call('SET', store_key, store)
end
redis.call('ZADD', members, now(), member)
return { 'joined', '' }
