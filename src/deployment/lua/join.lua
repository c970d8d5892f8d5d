-- Lets a worker join its deployment or stay in it, unless its layout, database or encryption keys differ.
-- KEYS[1]   version of the key layout
-- KEYS[2]   id of the database that the jobs belong to
-- KEYS[3]   set of the workers with their encryption keys
-- KEYS[4..] queues
-- ARGV[1]   version of the key layout that the worker knows
-- ARGV[2]   id of the worker's database
-- ARGV[3]   ms after which a worker that has not joined again is gone
-- ARGV[4]   ms after which a worker that has not reported to its queues is gone
-- ARGV[5]   name of the worker
-- ARGV[6]   'join'; 'claim' to join after waiting for others to report; 'stay' to join again; 'look' to change nothing
-- ARGV[7]   number of the worker's encryption keys
-- ARGV[8..] fingerprints of these keys, the current one first
-- Returns {word, detail}: 'joined' ('fits' for 'look'), or why the worker has not joined:
--   'layout' with the newer layout's version, or 'store' with the id of the database that the jobs belong to
--   'keys' with the entry of a worker whose keys differ. Such entries are removed, except by 'look', because their
--     workers may be dead; a living one adds its entry again
--   'unclaimed' for 'join': Redis names no database; it may have lost its data. Running workers are woken to report
--   'others' for 'claim': Redis names no database, but a worker has reported, so Redis has lost its data
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

-- Two workers fit if each has the other's current key. An entry consists of a worker's name and its keys' fingerprints.
local member = name .. ' ' .. table.concat(keys, ' ')
local mine = ' ' .. table.concat(keys, ' ') .. ' '
local others = redis.call('ZRANGE', members, 0, -1, 'WITHSCORES')
local differs
for n = 1, #others, 2 do
    local other, seen = others[n], tonumber(others[n + 1])
    local of, theirs = string.match(other, '^(%S+) (.+)$')
    local current = theirs and string.match(theirs, '^%S+')
    -- After the clock of Redis was moved back, an entry may be dated in the far future. Then it counts as expired, too.
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
    -- Workers that know only the older layout notice that their entries are gone, try to join and are refused.
    redis.call('DEL', members)
end
if not other_store then
    redis.call('SET', store_key, store)
end
redis.call('ZADD', members, now(), member)
return { 'joined', '' }
