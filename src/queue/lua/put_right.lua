-- Moves jobs forward that lie further ahead than they were ever meant to wait: they were scheduled by a clock of
-- Redis that has been set back since. Doing so again changes nothing, so any number of workers may.
-- KEYS[1] queue   ARGV: due time to look from, as ZRANGEBYSCORE takes it; most jobs to look at
-- Returns {due time to look from next, or an empty text after the last job; number of jobs moved}
local queue, from, most = KEYS[1], take(), tonumber(take())
-- A due time is rounded, up by a millisecond at most.
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
-- Jobs of the same due time are moved alike: those of the last one are either still to be moved, or stay.
return { (last_moved and '' or '(') .. found[#found], moved }
