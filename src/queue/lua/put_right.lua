-- Shortens waits that are longer than intended because the clock of Redis was moved back after the job was scheduled. A
-- second run changes nothing, so any number of workers may run this script.
-- KEYS[1] queue
-- ARGV[1] due time to begin at, in the notation of ZRANGEBYSCORE
-- ARGV[2] maximum number of jobs to read
-- Returns {due time at which to continue, or an empty text after the last job; number of jobs rescheduled}.
local queue, from, most = KEYS[1], take(), tonumber(take())
-- Tolerance for the rounding of due times, which adds a millisecond at most.
local ROUNDED_MS = 5
local found = redis.call('ZRANGEBYSCORE', queue .. ':scheduled', from, '+inf', 'WITHSCORES', 'LIMIT', 0, most)
local moved, last_moved = 0, false
for n = 1, #found, 2 do
    local due = tonumber(found[n + 1])
    local meant_ms = meant_wait_ms(due)
    last_moved = meant_ms and (due - now()) * 1000 > meant_ms + ROUNDED_MS
    if last_moved then
        schedule(queue, found[n], meant_ms)
        moved = moved + 1
    end
end
place()
if #found < 2 * most then
    return { '', moved }
end
-- Unread jobs may have the due time of the last job read, and need the same as that job. If it was moved, the next call
-- begins at this due time, to move them as well. If it was kept, the next call begins after it: `(` excludes it.
return { (last_moved and '' or '(') .. found[#found], moved }
