-- Reads the oldest messages of the inbox, up to a number and a total size. For a message that is too large to be
-- accepted, only the size is returned.
-- KEYS[1] inbox
-- ARGV[1] id of the message after which to begin (empty: at the oldest)
-- ARGV[2] maximum number of messages
-- ARGV[3] maximum bytes of all messages
-- ARGV[4] maximum bytes of one message
-- Returns for each message {id, size in bytes, fields}; the fields are empty if the message is too large.
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
