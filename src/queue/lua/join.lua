-- Has a worker join its deployment, or stay in it, unless it differs in what all of its workers must share.
-- KEYS number of the layout of all keys, id of the database, set of the workers   ARGV: layout that the program knows,
--   id of its database, ms after which a worker that has not joined anew is gone, name of the worker, 'join', or 'look'
--   to change nothing, fingerprints of its encryption keys (their number, then each of them), the current key's first
-- Returns {word, detail}: 'joined'; 'layout' with that of a newer program; 'store' with the id of the database that the
--   jobs belong to; or 'keys' with a worker whose keys differ, as it stands in the set. For one that is to join, all
--   such workers are removed: they add themselves again within seconds if they live. 'fits' for one that looks.
local layout_key, store_key, members = KEYS[1], KEYS[2], KEYS[3]
local layout, store, lease, name = tonumber(take()), take(), tonumber(take()) / 1000, take()
local joins = take() == 'join'
local keys = take_list()

local found = tonumber(redis.call('GET', layout_key) or 0) or 0
if found > layout then
    return { 'layout', tostring(found) }
end
local other_store = redis.call('GET', store_key)
if other_store and other_store ~= store then
    return { 'store', other_store }
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
