-- Moves messages from the inbox into a queue or to the rejected messages. A message that adds nothing to an order that
-- is already tracked is only deleted. One script does all of this, so that no crash can lose or duplicate a message.
-- The messages of a call were the oldest of the inbox when they were read. If the first of them is no longer the oldest
-- when the script runs, another worker has moved that message, and the script does nothing.
-- KEYS[1]   inbox
-- KEYS[2]   rejected messages
-- KEYS[3]   queue in which an order may be tracked; it also runs the jobs for messages about tracked orders
-- KEYS[4..] other queues in which an order may be tracked
-- ARGV, for each message, the oldest first and without gaps:
--   id
--   `reject` or `accept`
--   reject: reason
--   accept: kind: `repeat` (only requests tracking), `update` (also has details), `check`, `correct` or `cancel`
--   accept: id of the order's own job
--   accept, for an order that is not tracked: queue
--   accept, for an order that is not tracked: id of the job
--   accept, for an order that is not tracked: payload
--   accept, for an order that is not tracked: delay in ms since the message was added
--   accept, for a tracked order: payload of the job that applies the message
-- Returns for each message `accepted`, `rejected`, `duplicate`, `passed-on` (a job will apply it to a tracked order) or
--   `gone` (a message to reject that was deleted by hand). Returns {} if another worker has moved the first message.
local inbox, rejected = KEYS[1], KEYS[2]
local MAX_FIELDS = 1000
-- A rejected message of more than KEPT_WHOLE bytes is cut to its first KEPT_PARTS names and values, and each name or
-- value to KEPT_OF_PART bytes.
local KEPT_WHOLE, KEPT_PARTS, KEPT_OF_PART = 65536, 32, 1024
-- Lifetime of the mark of a cancelled order. The order's job ends at its next run, which is within a day. Until then a
-- message that repeats the order resumes it. Without the mark that message would be dropped as a duplicate.
local CANCELLED_SECONDS = 2 * 86400
-- Delay of the job of a cancelled order. Another job stores the cancellation meanwhile, so the order's job will see it.
local CANCELLED_JOB_MS = 1000

local messages, message_ids, orders = {}, {}, {}
while at < #ARGV do
    local id, message = take(), nil
    if take() == 'reject' then
        message = { id = id, reason = take() }
    else
        message = { id = id, what = take(), order = take(), queue = take(), job = take(), payload = take(),
            delay_ms = tonumber(take()), payload_if_tracked = take() }
        orders[#orders + 1] = message.order
    end
    messages[#messages + 1] = message
    message_ids[#message_ids + 1] = message.id
end

local oldest = redis.call('XRANGE', inbox, '-', '+', 'COUNT', 1)[1]
if not oldest or oldest[1] ~= message_ids[1] then
    return {}
end

local function kept(fields)
    local bytes = size_of(fields)
    if bytes > KEPT_WHOLE then
        local beginning = { 'cut-from-bytes', bytes }
        for n = 1, math.min(#fields, KEPT_PARTS) do
            beginning[#beginning + 1] = string.sub(fields[n], 1, KEPT_OF_PART)
        end
        return beginning
    elseif #fields > MAX_FIELDS then
        -- Lua cannot pass so many fields one by one, so they are kept as one MessagePack array.
        return { 'fields', cmsgpack.pack(fields) }
    end
    return fields
end

-- By order id. `tracked`: a queue holds the order's job to run it. `dead_letters`: the order's job is a dead letter.
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

-- Ids and payloads of the new jobs, by the key of the hash into which they are written.
local payloads = {}
-- `jobs` lists all new jobs. `own_jobs` holds by order id those that track an order; the others apply a message.
local jobs, own_jobs = {}, {}

local function put(queue, id, payload, delay_ms)
    local data = list(payloads, queue .. ':data')
    data[#data + 1] = id
    data[#data + 1] = payload
    jobs[#jobs + 1] = { queue = queue, id = id, delay_ms = delay_ms }
    return jobs[#jobs]
end

-- By id of a tracked order. `cancelled`: true if this call cancels the order, false if it resumes the order. `moves`:
-- new wait of the order's job in ms. `moved` lists the ids in `moves`, in the sequence of their messages.
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

-- Adds the job that applies a message to a tracked order, unless the message is a duplicate.
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
    put(KEYS[3], order .. '#' .. message.id, message.payload_if_tracked, 0)
    return 'passed-on'
end

-- Reschedules the job of an order if it is scheduled. A job that is due or in flight is not moved.
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
    -- Every message but `correct` and `cancel` makes the order tracked again, which deletes its dead letters.
    if dead_letters[order] and message.what ~= 'correct' and message.what ~= 'cancel' then
        for n = 3, #KEYS do
            forget_dead_letter(KEYS[n], order)
        end
    end
    if tracked[order] then
        return pass_on(message)
    end
    -- A delay counts from the time at which the producer added the message, not from the time of this call.
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
-- If the memory of Redis is full, the script ends above, at the payloads. It moves jobs only below, so none is lost.
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
-- The messages are the oldest of the inbox. Redis trims whole blocks of them at once, but XDEL searches each message.
local last = message_ids[#message_ids]
redis.call('XTRIM', inbox, 'MINID', last)
redis.call('XDEL', inbox, last)
return results
