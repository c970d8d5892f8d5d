-- Reads messages of the inbox, the oldest first, few at a time and no more than fit into so many bytes. Of a message that is too
-- large to be accepted only the size is handed over.
-- KEYS[1] inbox   ARGV: id of the message behind which to begin, empty for the oldest; most messages, most bytes of all, most bytes of one
-- Returns for each message its id, its size in bytes, and its fields; no fields where it is larger than one may be
local CHUNK = 16
local after = take()
local most, most_bytes, most_of_one = tonumber(take()), tonumber(take()), tonumber(take())
local read, bytes, from = {}, 0, after == '' and '-' or '(' .. after
while #read < most and bytes < most_bytes do
    local entries = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', math.min(CHUNK, most - #read))
    for _, entry in ipairs(entries) do
        local size = size_of(entry[2])
        local fits = size <= most_of_one
        read[#read + 1] = { entry[1], size, fits and entry[2] or {} }
        bytes = bytes + (fits and size or 0)
    end
    if #entries < CHUNK then
        break
    end
    from = '(' .. entries[#entries][1]
end
return read
