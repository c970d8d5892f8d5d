-- Moves messages out of the inbox: into a queue, to the rejected ones, or away where the order is already
-- followed. Messages are deleted last, in the same step: no crash and no second worker can lose or double one.
-- KEYS[1] inbox   KEYS[2] rejected   KEYS[3..] queues in which an order may already be followed
-- ARGV, for each message: id, then `reject` and the reason,
--   or `accept` and queue, id of the job, payload, delay in ms since the message was added
-- Returns for each message `gone`, `rejected`, `duplicate` or `accepted`
local inbox, rejected = KEYS[1], KEYS[2]
local MOST_FIELDS = 1000
-- Of a rejected message that has more bytes, so many of its parts are kept, and of each part so many bytes.
local KEPT_WHOLE, KEPT_PARTS, KEPT_OF_PART = 65536, 32, 1024
-- Messages read at once: some of them may be very large.
local CHUNK = 16

local messages, message_ids, rejects = {}, {}, {}
while at < #ARGV do
    local message = { id = take(), verdict = take() }
    if message.verdict == 'reject' then
        message.reason = take()
        rejects[message.id] = true
    else
        message.queue, message.job, message.payload, message.delay_ms = take(), take(), take(), tonumber(take())
    end
    messages[#messages + 1] = message
    message_ids[#message_ids + 1] = message.id
end

-- What of it is still there: another worker may have been faster. Only for such a message is anything done;
-- the job of one that is gone may be a dead letter by now.
local entries, job_ids = {}, {}

-- What is kept of a rejected message.
local function kept(fields)
    local bytes = size_of(fields)
    if bytes > KEPT_WHOLE then
        local beginning = { 'cut-from-bytes', bytes }
        for n = 1, math.min(#fields, KEPT_PARTS) do
            beginning[#beginning + 1] = string.sub(fields[n], 1, KEPT_OF_PART)
        end
        return beginning
    elseif #fields > MOST_FIELDS then
        -- More than a script can hand on one by one: kept whole, as one MessagePack array.
        return { 'fields', cmsgpack.pack(fields) }
    end
    return fields
end

local from, chunk = message_ids[1], nil
repeat
    chunk = redis.call('XRANGE', inbox, from, message_ids[#message_ids], 'COUNT', CHUNK)
    for _, entry in ipairs(chunk) do
        entries[entry[1]] = rejects[entry[1]] and kept(entry[2]) or true
        from = '(' .. entry[1]
    end
until #chunk < CHUNK
for _, message in ipairs(messages) do
    if message.job and entries[message.id] then
        job_ids[#job_ids + 1] = message.job
    end
end

-- By id of the job: whether one of the queues holds it. A dead letter does not count and goes.
local followed = {}
if #job_ids > 0 then
    for n = 3, #KEYS do
        for m, dead in ipairs(redis.call('SMISMEMBER', KEYS[n] .. ':dead', unpack(job_ids))) do
            if dead == 1 then
                forget_dead_letter(KEYS[n], job_ids[m])
            end
        end
        for m, payload in ipairs(redis.call('HMGET', KEYS[n] .. ':data', unpack(job_ids))) do
            followed[job_ids[m]] = followed[job_ids[m]] or payload
        end
    end
end

local function reject(message, fields)
    redis.call('XADD', rejected, '*', 'id', message.id, 'reason', message.reason, unpack(fields))
    return 'rejected'
end

-- By key: ids and payloads of the jobs that are accepted.
local payloads = {}

local function accept(message)
    if followed[message.job] then
        return 'duplicate'
    end
    followed[message.job] = true
    local data = list(payloads, message.queue .. ':data')
    data[#data + 1] = message.job
    data[#data + 1] = message.payload
    -- A delay counts from the moment the producer added the message, however long nobody took it in.
    local added_ms = tonumber(string.match(message.id, '^%d+'))
    local waited_ms = math.max(0, now() * 1000 - added_ms)
    schedule(message.queue, message.job, message.delay_ms > 0 and message.delay_ms - waited_ms or 0)
    return 'accepted'
end

local results = {}
for n, message in ipairs(messages) do
    local fields = entries[message.id]
    if not fields then
        results[n] = 'gone'
    elseif message.verdict == 'reject' then
        results[n] = reject(message, fields)
    else
        results[n] = accept(message)
    end
end
for data, values in pairs(payloads) do
    call_with('HSET', data, values)
end
place()
redis.call('XDEL', inbox, unpack(message_ids))
return results
