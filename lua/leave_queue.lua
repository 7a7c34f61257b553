-- How those who wait for a lock leave its line. It stands behind entries.lua.

-- Whether its owner has cancelled the request of this attempt; it is forgotten then.
local function is_cancelled(ticket, attempt)
  local waiting, _, position = read_ticket(ticket)
  if waiting ~= attempt or position ~= 'x' then
    return false
  end
  redis.call('HDEL', TICKETS, ticket)
  redis.call('ZREM', WAITING, attempt)
  return true
end

-- Forgets that an owner waits, since it has the lock, or cannot have it.
local function stop_waiting(head)
  local attempt = read_ticket(head)
  if attempt then
    redis.call('ZREM', WAITING, attempt)
    drop_ticket(head)
  end
end

-- Lets the tickets of a lock lapse with the last reservation when no request is open
-- for it: nobody sweeps them then, and they count as waiting no longer.
local function lapse_with_reservations(now_ms)
  if redis.call('EXISTS', LINE) == 0 then
    local last_ms = tonumber(redis.call('ZRANGE', KEPT, -1, -1, 'WITHSCORES')[2] or now_ms)
    local rest_ms = word(math.max(last_ms - now_ms, 0) + 1000)
    redis.call('PEXPIRE', TICKETS, rest_ms)
    redis.call('PEXPIRE', KEPT, rest_ms)
  end
end

-- Leaves the line with an attempt, if that is the one which waits. The position of
-- an owner is reserved for a while, in which it counts as waiting. Returns whether
-- it stood in line.
local function leave(ticket, attempt, now_ms)
  local waiting, pod, position, about = read_ticket(ticket)
  if waiting ~= attempt then
    redis.call('ZREM', WAITING, attempt)
    return false
  end
  if string.sub(ticket, -1) ~= '\n' or position == 'x' then
    redis.call('ZREM', WAITING, attempt)
    drop_ticket(ticket)
    return position ~= 'x'
  end
  if position == '' then
    position = redis.call('ZSCORE', LINE, ticket)
  end
  reserve(ticket, attempt, pod, word(tonumber(position or now_ms * 1000)), about, now_ms + KEEP_MS)
  redis.call('ZADD', WAITING, 'XX', word(now_ms + KEEP_MS), attempt)
  lapse_with_reservations(now_ms)
  return true
end
