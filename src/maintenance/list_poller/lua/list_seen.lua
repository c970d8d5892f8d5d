-- Records what the rows of a page of the list showed, and wakes the jobs of their orders.
-- KEYS[1]   budget
-- KEYS[2]   queue of polling jobs
-- KEYS[3..] other queues in which the job of an order may be
-- ARGV[1]   lease in ms: how long no other reading may begin
-- ARGV[2]   ms for which a further 'ready' of the same order is ignored
-- ARGV[3]   head start of a 'ready' order in the wait queue, in ms
-- ARGV[4..] for each order its id and one of these words:
--   'handling'   the order is not final
--   'decided'    the store holds what the row showed, and the order's job has to act on it
--   'ready'      the order is FULFILLED and the row lacks a part of the card, so a check by id is due. Among new orders
--                it comes before those that have waited for less than the head start; in the backlog it comes first
-- Returns the number of jobs that were woken.
local budget = KEYS[1]
local lease, once, lead = take(), take(), tonumber(take())
local now_ms = math.floor(now() * 1000)
local woken = 0
redis.call('SET', budget .. ':list-lock', 1, 'PX', lease, 'XX')

local function wake(id)
    for n = 2, #KEYS do
        if redis.call('ZREM', KEYS[n] .. ':scheduled', id) == 1 then
            schedule(KEYS[n], id, 0)
            woken = woken + 1
        end
    end
end

-- Returns the payload of a tracked order's job, and whether the job is in the queue of polling jobs.
local function tracked(id)
    for n = 2, #KEYS do
        -- A dead letter has a payload, too, but no worker runs its job.
        local payload = redis.call('HMGET', KEYS[n] .. ':data', id)[1]
        if payload and redis.call('SMISMEMBER', KEYS[n] .. ':dead', id)[1] == 0 then
            return payload, n == 2
        end
    end
end

while at < #ARGV do
    local id, what = take(), take()
    local payload, polled = tracked(id)
    if not payload then
        if what == 'decided' then
            -- The order has changed, so its dead letter is outdated. The jobs it needs now are restored from the store.
            for n = 2, #KEYS do
                forget_dead_letter(KEYS[n], id)
            end
        end
        -- Without a job, 'handling' and 'ready' need nothing: most such orders are final or of other programs.
    elseif what == 'handling' then
        redis.call('ZADD', budget .. ':seen-in-list', now_ms, id)
    elseif what == 'ready' then
        -- Of several 'ready' rows within `once` ms only the first counts. Later checks follow the usual schedule.
        if redis.call('SET', budget .. ':details-requested:' .. id, 1, 'PX', once, 'NX') then
            if polled and not redis.call('ZSCORE', budget .. ':waiting-backlog', id) then
                redis.call('SADD', budget .. ':details-missing', id)
                redis.call('ZADD', budget .. ':waiting-new', 'LT', now_ms - lead, id)
            else
                -- With score 0 the order comes first in the backlog, with other orders that the list showed FULFILLED.
                redis.call('ZADD', budget .. ':waiting-backlog', 0, id)
            end
            redis.call('ZADD', budget .. ':eligible-at', now_ms, id)
            wake(id)
        end
    elseif not string.find(payload, '"force":true', 1, true) then
        -- The row answers the order's check, so the order needs no permit. (A forced check needs `check-id` itself.)
        leave_wait_queue(budget, id)
        wake(id)
    end
end
place()
return woken
