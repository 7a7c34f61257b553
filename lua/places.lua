-- Places in the line of a lock. It stands behind line.lua.

-- Keeps a key for so long at least. GT alone would never end one that has no end
-- yet.
local function keep(key, ms)
  if redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, ms)
  else
    redis.call('PEXPIRE', key, ms, 'GT')
  end
end

-- Takes a place at the end of the line, or the owner's own that it has already:
-- then another request of its owner has it no more, and is told. Returns how
-- many of the account wait, as a word, when these are as many as may.
local function stand_in_line(now, head, attempt, pod, about, wait_ms, waiting_max)
  local now_ms = math.floor(now / 1000)
  sweep(now_ms)
  local ticket = string.sub(head, -2) == '\n\n' and head .. attempt or head
  local record = redis.call('HGET', TICKETS, ticket)
  if record then
    local before, its_pod = string.match(record, '^([^\n]*)\n([^\n]*)\n')
    redis.call('ZREM', WAITING, before)
    redis.pcall('PUBLISH', its_pod, before)
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
  redis.call('ZREM', KEPT, ticket)
  keep(LINE, keep_ms)
  keep(TICKETS, keep_ms)
  keep(KEPT, keep_ms)
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
    drop_ticket(ticket)
  else
    local kept_until_ms = word(now_ms + KEEP_MS)
    redis.call('HSET', TICKETS, ticket, table.concat({attempt, pod, kept_until_ms, about}, '\n'))
    redis.call('ZADD', KEPT, kept_until_ms, ticket)
    keep(KEPT, word(redis.call('PTTL', LINE)))
  end
  return true
end
