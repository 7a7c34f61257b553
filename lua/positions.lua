-- Adds requests to the queue. Included after entries.lua.

-- Extends the lifetime of a key to at least this time. PEXPIRE with GT has no effect on a
-- key without an expiry.
local function extend_ttl(key, ms)
  if redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, ms)
  else
    redis.call('PEXPIRE', key, ms, 'GT')
  end
end

-- Puts an entry with an open request into the queue, at its position.
local function requeue(entry, attempt, pod, position, metadata)
  redis.call('ZADD', QUEUE, position, entry)
  redis.call('ZREM', RESERVED, entry)
  redis.call('HSET', ENTRIES, entry, attempt .. '\n' .. pod .. '\n\n' .. metadata)
  local ttl_ms = format_int(redis.call('PTTL', ENTRIES))
  redis.call('PEXPIRE', QUEUE, ttl_ms)
  redis.call('PEXPIRE', RESERVED, ttl_ms)
end

-- Queues a request at the end, or at its owner's current position; this replaces the
-- owner's earlier request, whose server is notified. Returns the account's number of
-- queued requests, as a string, when its limit is reached; otherwise nil.
local function enqueue(now, holder_prefix, attempt, pod, metadata, wait_ms, waiting_max)
  local now_ms = math.floor(now / 1000)
  expire_reservations(now_ms)
  local entry = string.sub(holder_prefix, -2) == '\n\n' and holder_prefix .. attempt or holder_prefix
  local earlier, earlier_pod, position = read_entry(entry)
  if earlier then
    redis.call('ZREM', WAITING, earlier)
    redis.pcall('PUBLISH', earlier_pod, earlier)
    if position == '' then
      position = redis.call('ZSCORE', QUEUE, entry)
    elseif tonumber(redis.call('ZSCORE', RESERVED, entry) or 0) <= now_ms then
      position = nil
    end
  end
  if redis.call('ZCARD', WAITING) >= waiting_max then
    local waiting = count_live(WAITING, now_ms)
    if waiting >= waiting_max then
      return format_int(waiting)
    end
  end
  redis.call('ZADD', WAITING, format_int(now_ms + wait_ms + RESERVE_MS), attempt)
  -- The keys outlive the wait and the reservation after it.
  local ttl_ms = format_int(wait_ms + 2 * RESERVE_MS)
  extend_ttl(WAITING, ttl_ms)
  if not position then
    local last = redis.call('ZRANGE', QUEUE, -1, -1, 'WITHSCORES')[2]
    position = math.max(now, tonumber(last or 0) + 1)
  end
  redis.call('HSET', ENTRIES, entry, '')
  extend_ttl(ENTRIES, ttl_ms)
  requeue(entry, attempt, pod, format_int(tonumber(position)), metadata)
  return nil
end
