-- Shared by every script: its arguments, and the clock. All keys of the project carry the same hash tag, so a script
-- never leaves its slot.

local unpack = unpack

-- The next argument, for scripts that read them one by one; `at` is the last one read.
local at = 0
local function take()
    at = at + 1
    return ARGV[at]
end

-- Seconds since 1970 by the clock of Redis, to the millisecond. Hosts need not agree on the time. It stands
-- still while a script runs, so it is asked once.
local asked
local function now()
    if not asked then
        local time = redis.call('TIME')
        asked = tonumber(time[1]) + math.floor(tonumber(time[2]) / 1000) / 1000
    end
    return asked
end

-- The next arguments: their number, then each of them.
local function take_list()
    local list = {}
    for n = 1, tonumber(take()) do
        list[n] = take()
    end
    return list
end

-- The bytes of the names and values of a message together.
local function size_of(fields)
    local bytes = 0
    for _, part in ipairs(fields) do
        bytes = bytes + #part
    end
    return bytes
end

