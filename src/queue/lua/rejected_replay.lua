-- Puts a rejected message back into the inbox as its producer sent it. The field `first-id` holds the first id of the
-- message in the inbox. By that id the message still counts as older than messages that arrived after it.
-- KEYS[1] inbox
-- KEYS[2] rejected messages
-- ARGV[1] id of the entry
-- Returns the new id in the inbox, `gone` if there is no such entry, `packed` if the message had too many fields, or
--   `cut` if it was too large and only its beginning was kept. Packed and cut messages can never be accepted.
local id = take()
local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
if not entry then
    return 'gone'
end
-- The first two fields, id and reason, were added on rejection; the fields of the message follow.
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
