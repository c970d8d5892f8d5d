-- Prepended to every script: functions that read its arguments and the clock. All keys of the project have the same
-- hash tag, so they are all in one slot of a cluster.

local unpack = unpack

-- Returns the next argument, for scripts that read their arguments in sequence; `at` is the index of the last one read.
local at = 0
local function take()
    at = at + 1
    return ARGV[at]
end

-- Returns seconds since 1970, to the millisecond, by the clock of Redis, because the clocks of the hosts may differ. A
-- script reads that clock only once, because Redis shows the same time while a script runs.
local asked
local function now()
    if not asked then
        local time = redis.call('TIME')
        asked = tonumber(time[1]) + math.floor(tonumber(time[2]) / 1000) / 1000
    end
    return asked
end

-- Reads a list from the next arguments: its length, then its elements.
local function take_list()
    local list = {}
    for n = 1, tonumber(take()) do
        list[n] = take()
    end
    return list
end

-- Returns the total bytes of the names and values of a message.
local function size_of(fields)
    local bytes = 0
    for _, part in ipairs(fields) do
        bytes = bytes + #part
    end
    return bytes
end

