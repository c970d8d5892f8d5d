-- Puts a rejected message back into the inbox as its producer sent it, with the id that it had at first: it is not newer
-- than messages that came since.
-- KEYS[1] inbox   KEYS[2] rejected   ARGV: id of the entry
-- Returns the id it has in the inbox, `gone` where there is no such entry, `packed` for a message of so many
-- fields that it was kept as one, or `cut` for one of which only the beginning was kept: those can never be accepted.
local id = take()
local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
if not entry then
    return 'gone'
end
-- First its id and the reason, which were added when it was rejected, then what was sent.
local fields = entry[2]
if #fields == 6 and fields[5] == 'fields' then
    return 'packed'
elseif fields[5] == 'cut-from-bytes' then
    return 'cut'
end
local has_first_id = false
for n = 5, #fields, 2 do
    has_first_id = has_first_id or fields[n] == 'first-id'
end
local added = has_first_id and redis.call('XADD', KEYS[1], '*', unpack(fields, 5))
    or redis.call('XADD', KEYS[1], '*', 'first-id', fields[2], unpack(fields, 5))
redis.call('XDEL', KEYS[2], id)
return added
