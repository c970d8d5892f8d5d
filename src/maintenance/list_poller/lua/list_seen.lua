-- Says what a page of the list showed.
-- KEYS[1] budget   KEYS[2] queue of fast polling   KEYS[3..] other queues in which an order may be   ARGV: ms for which
--   no other reading begins, ms for which an order is not called ready again, ms of waiting that a ready order is
--   given; then for each order: its id and
--   'handling'   it is not final
--   'decided'    what it showed stands in the store: its job has to carry that out
--   'ready'      it is FULFILLED, and the row does not show all of the card: it is asked for before other new orders
--                but those that have waited for longer than the given time, or before the rest of the backlog
-- Returns the number of orders that were woken
local budget = KEYS[1]
local lease, once, lead = take(), take(), tonumber(take())
local now = math.floor(now() * 1000)
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

-- The payload of its job, if the order is tracked, and whether that is in the queue of fast polling.
local function tracked(id)
    for n = 2, #KEYS do
        -- A dead letter has its payload there, and no worker checks it.
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
            -- The order has gone on since it became a dead letter. What is still to be done, the store has put back.
            for n = 2, #KEYS do
                forget_dead_letter(KEYS[n], id)
            end
        end
        -- Other programs have orders too, and most of those in the list are long final.
    elseif what == 'handling' then
        redis.call('ZADD', budget .. ':seen-in-list', now, id)
    elseif what == 'ready' then
        -- Where check-id shows no card either, it is asked for at its own pace.
        if redis.call('SET', budget .. ':details-requested:' .. id, 1, 'PX', once, 'NX') then
            if polled and not redis.call('ZSCORE', budget .. ':waiting-backlog', id) then
                redis.call('SADD', budget .. ':details-missing', id)
                redis.call('ZADD', budget .. ':waiting-new', 'LT', now - lead, id)
            else
                -- It came hours after those that wait there, and it alone is known to have ended.
                redis.call('ZADD', budget .. ':waiting-backlog', 0, id)
            end
            redis.call('ZADD', budget .. ':eligible-at', now, id)
            wake(id)
        end
    elseif not string.find(payload, '"force":true', 1, true) then
        -- A forced check of a final order learns nothing from that, and keeps its place in the queue.
        leave_wait_queue(budget, id)
        wake(id)
    end
end
place()
return woken
