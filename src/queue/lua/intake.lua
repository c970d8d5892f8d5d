-- Moves messages out of the inbox: into a queue, to the rejected ones, or away where the order is already
-- tracked and they say nothing new. Messages are deleted last, in the same step: no crash and no second worker can
-- lose or double one. They are moved only while the first of them is the oldest of the inbox: all workers move messages
-- from the oldest on, so then no other worker has moved one of them.
-- KEYS[1] inbox   KEYS[2] rejected   KEYS[3..] queues in which an order may already be tracked; in the first of them
--   runs what is done about an order that is tracked
-- ARGV, for each message, the oldest first and none left out: id, then `reject` and the reason,
--   or `accept` and what the message is: `repeat` where it says no more than that the order is to be tracked, `update`
--   where it says more, `check`, `correct` or `cancel`; id of the order's own job; where the order is not tracked:
--   queue, id, payload and delay in ms since the message was added; payload of the job that carries the message out
--   where the order is tracked
-- Returns for each message `rejected`, `duplicate`, `accepted`, `passed-on` where the order is tracked and a job carries
--   out what the message says, or `gone` where it was to be rejected and was deleted by hand; nothing where another worker
--   was faster
local inbox, rejected = KEYS[1], KEYS[2]
local MAX_FIELDS = 1000
-- Of a rejected message that has more bytes, so many of its parts are kept, and of each part so many bytes.
local KEPT_WHOLE, KEPT_PARTS, KEPT_OF_PART = 65536, 32, 1024
-- The job of an order that was cancelled ends when it runs; by then it is no reason to drop a message of the order. The
-- longest wait between two checks is a day.
local CANCELLED_SECONDS = 2 * 86400
-- Its job runs this much later than the one that stores that it is cancelled.
local CANCELLED_JOB_MS = 1000

local messages, message_ids, orders = {}, {}, {}
while at < #ARGV do
    local message = { id = take(), verdict = take() }
    if message.verdict == 'reject' then
        message.reason = take()
    else
        message.what, message.order = take(), take()
        message.queue, message.job, message.payload, message.delay_ms = take(), take(), take(), tonumber(take())
        message.payload_where_followed = take()
        orders[#orders + 1] = message.order
    end
    messages[#messages + 1] = message
    message_ids[#message_ids + 1] = message.id
end

local oldest = redis.call('XRANGE', inbox, '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= message_ids[1] then
    return {}
end

-- What is kept of a rejected message.
local function kept(fields)
    local bytes = size_of(fields)
    if bytes > KEPT_WHOLE then
        local beginning = { 'cut-from-bytes', bytes }
        for n = 1, math.min(#fields, KEPT_PARTS) do
            beginning[#beginning + 1] = string.sub(fields[n], 1, KEPT_OF_PART)
        end
        return beginning
    elseif #fields > MAX_FIELDS then
        -- More than a script can hand on one by one: kept whole, as one MessagePack array.
        return { 'fields', cmsgpack.pack(fields) }
    end
    return fields
end

-- By id of the order: whether one of the queues holds its job. A dead letter does not count.
local tracked, dead_letters = {}, {}
if #orders > 0 then
    for n = 3, #KEYS do
        local dead = redis.call('SMISMEMBER', KEYS[n] .. ':dead', unpack(orders))
        for m, payload in ipairs(redis.call('HMGET', KEYS[n] .. ':data', unpack(orders))) do
            if dead[m] == 1 then
                dead_letters[orders[m]] = true
            elseif payload then
                tracked[orders[m]] = true
            end
        end
    end
end

local function reject(message)
    local entry = redis.call('XRANGE', inbox, message.id, message.id)[1]
    if not entry then
        return 'gone'
    end
    redis.call('XADD', rejected, '*', 'id', message.id, 'reason', message.reason, unpack(kept(entry[2])))
    return 'rejected'
end

-- By key: ids and payloads of the jobs that are put into the queues.
local payloads = {}
-- Those jobs, and by id those of orders.
local jobs, own_jobs = {}, {}

local function put(queue, id, payload, delay_ms)
    local data = list(payloads, queue .. ':data')
    data[#data + 1] = id
    data[#data + 1] = payload
    jobs[#jobs + 1] = { queue = queue, id = id, delay_ms = delay_ms }
    return jobs[#jobs]
end

-- By id of an order that is tracked: whether it was cancelled since a message last had it tracked, and after how many
-- ms its job is to run, if that is to change; and the orders of which it is, the first first.
local cancelled, moves, moved = {}, {}, {}

local function cancelled_key(order)
    return KEYS[3] .. ':cancelled:' .. order
end

local function is_cancelled(order)
    if cancelled[order] == nil then
        return redis.call('EXISTS', cancelled_key(order)) == 1
    end
    return cancelled[order]
end

-- A message of an order that is tracked.
local function pass_on(message)
    local order, what = message.order, message.what
    if what == 'repeat' and not is_cancelled(order) then
        return 'duplicate'
    end
    if what == 'cancel' then
        cancelled[order] = true
    elseif what ~= 'correct' then
        cancelled[order] = false
    end
    if what == 'cancel' or what == 'check' then
        if not moves[order] then
            moved[#moved + 1] = order
        end
        moves[order] = what == 'cancel' and CANCELLED_JOB_MS or 0
    end
    put(KEYS[3], order .. '#' .. message.id, message.payload_where_followed, 0)
    return 'passed-on'
end

-- Has the job of an order that waits for its time run after this wait. One that is due, or in flight, is left alone.
local function move(order, delay_ms)
    if own_jobs[order] then
        own_jobs[order].delay_ms = math.min(own_jobs[order].delay_ms, delay_ms)
    end
    for n = 3, #KEYS do
        if redis.call('ZREM', KEYS[n] .. ':scheduled', order) == 1 then
            schedule(KEYS[n], order, delay_ms)
        end
    end
end

local function accept(message)
    local order = message.order
    -- An order that is to be tracked is no dead letter any more.
    if dead_letters[order] and message.what ~= 'correct' and message.what ~= 'cancel' then
        for n = 3, #KEYS do
            forget_dead_letter(KEYS[n], order)
        end
    end
    if tracked[order] then
        return pass_on(message)
    end
    -- A delay counts from the moment the producer added the message, however late it is taken in.
    local added_ms = tonumber(string.match(message.id, '^%d+'))
    local waited_ms = math.max(0, now() * 1000 - added_ms)
    local delay_ms = message.delay_ms > 0 and math.max(0, message.delay_ms - waited_ms) or 0
    local job = put(message.queue, message.job, message.payload, delay_ms)
    if message.job == order then
        tracked[order], own_jobs[order] = true, job
    end
    return 'accepted'
end

local results = {}
for n, message in ipairs(messages) do
    results[n] = message.reason and reject(message) or accept(message)
end
for data, values in pairs(payloads) do
    call_with('HSET', data, values)
end
-- Only now: a server that is full has refused the payloads, and no job may be lost by being taken out of its place.
for order, is in pairs(cancelled) do
    if is then
        redis.call('SET', cancelled_key(order), 1, 'EX', CANCELLED_SECONDS)
    else
        redis.call('DEL', cancelled_key(order))
    end
end
for _, order in ipairs(moved) do
    move(order, moves[order])
end
for _, job in ipairs(jobs) do
    schedule(job.queue, job.id, job.delay_ms)
end
place()
redis.call('XDEL', inbox, unpack(message_ids))
return results
