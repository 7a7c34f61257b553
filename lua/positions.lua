-- Positions in the line of a lock. It stands behind entries.lua.

-- Keeps a key for so long at least. GT alone would never end one that has no end
-- yet.
local function keep(key, ms)
  if redis.call('PTTL', key) == -1 then
    redis.call('PEXPIRE', key, ms)
  else
    redis.call('PEXPIRE', key, ms, 'GT')
  end
end

-- Puts a ticket in its position, for which a request is open again.
local function stand_again(ticket, attempt, pod, position, about)
  redis.call('ZADD', LINE, position, ticket)
  redis.call('ZREM', KEPT, ticket)
  redis.call('HSET', TICKETS, ticket, attempt .. '\n' .. pod .. '\n\n' .. about)
  local rest_ms = word(redis.call('PTTL', TICKETS))
  redis.call('PEXPIRE', LINE, rest_ms)
  redis.call('PEXPIRE', KEPT, rest_ms)
end

-- Takes a position at the end of the line, or the owner's own that it has already:
-- then another request of its owner has it no more, and is told. Returns how
-- many of the account wait, as a word, when these are as many as may.
local function stand_in_line(now, head, attempt, pod, about, wait_ms, waiting_max)
  local now_ms = math.floor(now / 1000)
  sweep(now_ms)
  local ticket = string.sub(head, -2) == '\n\n' and head .. attempt or head
  local before, its_pod, position = read_ticket(ticket)
  if before then
    redis.call('ZREM', WAITING, before)
    redis.pcall('PUBLISH', its_pod, before)
    if position == '' then
      position = redis.call('ZSCORE', LINE, ticket)
    elseif tonumber(redis.call('ZSCORE', KEPT, ticket) or 0) <= now_ms then
      position = nil
    end
  end
  if redis.call('ZCARD', WAITING) >= waiting_max then
    local waiting = count_live(WAITING, now_ms)
    if waiting >= waiting_max then
      return word(waiting)
    end
  end
  redis.call('ZADD', WAITING, word(now_ms + wait_ms + KEEP_MS), attempt)
  -- What is written lasts longer than the wait and the reservation after it.
  local keep_ms = word(wait_ms + 2 * KEEP_MS)
  keep(WAITING, keep_ms)
  if not position then
    local last = redis.call('ZRANGE', LINE, -1, -1, 'WITHSCORES')[2]
    position = math.max(now, tonumber(last or 0) + 1)
  end
  redis.call('HSET', TICKETS, ticket, '')
  keep(TICKETS, keep_ms)
  stand_again(ticket, attempt, pod, word(tonumber(position)), about)
  return nil
end
