-- Places in the line of a lock. It stands behind line.lua, before the scripts
-- that take or leave one.

-- Keeps a key for so long at least. GT alone would never end one that has no end
-- yet.
local function keep(key, ms)
  if redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, ms)
  else
    redis.call('PEXPIRE', key, ms, 'GT')
  end
end

-- Takes a place at the end of the line, or the owner's own that it has already.
-- Returns how many of the account wait, when these are as many as may.
local function stand_in_line(now, head, attempt, pod, about, wait_ms, waiting_max)
  local now_ms = math.floor(now / 1000)
  local ticket = string.sub(head, -2) == '\n\n' and head .. attempt or head
  local record = redis.call('HGET', TICKETS, ticket)
  if record then
    redis.call('ZREM', WAITING, string.match(record, '^[^\n]*'))
  end
  if redis.call('ZCARD', WAITING) >= waiting_max then
    redis.call('ZREMRANGEBYSCORE', WAITING, '-inf', '(' .. word(now_ms))
    local waiting = redis.call('ZCARD', WAITING)
    if waiting >= waiting_max then
      return word(waiting)
    end
  end
  -- What is written lasts longer than the wait and the place that is kept after.
  local keep_ms = word(wait_ms + 2 * KEEP_MS)
  redis.call('ZADD', WAITING, word(now_ms + wait_ms + KEEP_MS), attempt)
  keep(WAITING, keep_ms)
  if not record then
    local last = redis.call('ZRANGE', LINE, -1, -1, 'WITHSCORES')[2]
    redis.call('ZADD', LINE, word(math.max(now, tonumber(last or 0) + 1)), ticket)
  end
  redis.call('HSET', TICKETS, ticket, attempt .. '\n' .. pod .. '\n\n' .. about)
  keep(LINE, keep_ms)
  keep(TICKETS, keep_ms)
  return nil
end

-- Leaves the line with an attempt, if that is the one which waits. The place of
-- an owner is kept for a while. Returns whether it stood in line.
local function leave(ticket, record, attempt, now_ms)
  redis.call('ZREM', WAITING, attempt)
  local waiting, pod, about = string.match(record or '', '^([^\n]*)\n([^\n]*)\n[^\n]*\n(.*)$')
  if waiting ~= attempt then
    return false
  end
  if string.sub(ticket, -#attempt) == attempt then
    redis.call('ZREM', LINE, ticket)
    redis.call('HDEL', TICKETS, ticket)
  else
    local kept_until_ms = word(now_ms + KEEP_MS)
    redis.call('HSET', TICKETS, ticket, table.concat({attempt, pod, kept_until_ms, about}, '\n'))
  end
  return true
end
