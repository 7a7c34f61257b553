-- Removes requests from the queue. Included after entries.lua.

-- Whether the owner has cancelled the request of this attempt. Removes the cancellation.
local function consume_cancellation(entry, attempt)
  local waiting, _, position = read_entry(entry)
  if waiting ~= attempt or position ~= 'x' then
    return false
  end
  redis.call('HDEL', ENTRIES, entry)
  redis.call('ZREM', WAITING, attempt)
  return true
end

-- Removes the queue entry of an owner whose wait has ended with or without the lock.
local function end_wait(holder_prefix)
  local attempt = read_entry(holder_prefix)
  if attempt then
    redis.call('ZREM', WAITING, attempt)
    remove_entry(holder_prefix)
  end
end

-- Lets the entries of a lock without open requests expire with the last reservation: no
-- request or server expires them otherwise.
local function expire_with_reservations(now_ms)
  if redis.call('EXISTS', QUEUE) == 0 then
    local last_ms = tonumber(redis.call('ZRANGE', RESERVED, -1, -1, 'WITHSCORES')[2] or now_ms)
    local ttl_ms = format_int(math.max(last_ms - now_ms, 0) + 1000)
    redis.call('PEXPIRE', ENTRIES, ttl_ms)
    redis.call('PEXPIRE', RESERVED, ttl_ms)
  end
end

-- Removes the entry if it belongs to this attempt. The position of an owner becomes a
-- reservation for RESERVE_MS, which counts as waiting. Returns whether the attempt had
-- an entry.
local function leave_queue(entry, attempt, now_ms)
  local waiting, pod, position, metadata = read_entry(entry)
  if waiting ~= attempt then
    redis.call('ZREM', WAITING, attempt)
    return false
  end
  if string.sub(entry, -1) ~= '\n' or position == 'x' then
    redis.call('ZREM', WAITING, attempt)
    remove_entry(entry)
    return position ~= 'x'
  end
  if position == '' then
    position = redis.call('ZSCORE', QUEUE, entry)
  end
  position = format_int(tonumber(position or now_ms * 1000))
  reserve(entry, attempt, pod, position, metadata, now_ms + RESERVE_MS)
  redis.call('ZADD', WAITING, 'XX', format_int(now_ms + RESERVE_MS), attempt)
  expire_with_reservations(now_ms)
  return true
end
