-- The line of those who wait for a lock. It stands behind keys.lua.

-- How long a waiter has to collect the lock that was handed to it. Servers look
-- after their lines more often than that, so a lost message costs no place.
local COLLECT_MS = 5000
-- How long a place with an owner is kept after its request has ended.
local KEEP_MS = 10000

-- For how many ms nothing is granted yet, or nothing when there is no recovery.
local function rest_of_recovery(now)
  local clock = redis.call('GET', CLOCK)
  if tonumber(clock) then
    return nil
  end
  local until_ms = string.match(clock or '', ' (%d+)$')
  if not until_ms then
    -- How long it takes to ask for the long leases is not known.
    return 1000
  end
  local rest_ms = tonumber(until_ms) - math.floor(now / 1000)
  return rest_ms > 0 and rest_ms or nil
end

-- Whether a server can be expected to collect. When none is heard of it is
-- Redis that was away, and no server's fault.
local function is_alive(pod, now_ms)
  local until_ms = redis.call('ZSCORE', PODS, pod)
  if until_ms and tonumber(until_ms) >= now_ms then
    return true
  end
  local newest = redis.call('ZRANGE', PODS, -1, -1, 'WITHSCORES')[2]
  return not newest or tonumber(newest) < now_ms
end

-- Takes a ticket out of the line.
local function drop_ticket(ticket)
  redis.call('ZREM', LINE, ticket)
  redis.call('HDEL', TICKETS, ticket)
  redis.call('ZREM', KEPT, ticket)
end

-- Hands the lock, which must be free, to the first in line who can collect it,
-- and tells its server. Returns the new grant, or nothing when nobody waits, or
-- a recovery lets nobody have it yet.
local function hand_over(now)
  local ticket = redis.call('ZRANGE', LINE, 0, 0)[1]
  while ticket do
    local now_ms = math.floor(now / 1000)
    local attempt, pod, kept_until_ms, about =
      string.match(redis.call('HGET', TICKETS, ticket) or '\n\n0\n', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(.*)$')
    local window_ms = 0
    if kept_until_ms ~= '' then
      window_ms = math.min(tonumber(kept_until_ms) - now_ms, KEEP_MS)
    elseif is_alive(pod, now_ms) then
      window_ms = COLLECT_MS
    end
    local fence = window_ms > 0 and next_fence(now)
    if fence == nil then
      return nil
    end
    drop_ticket(ticket)
    if fence then
      local account, owner = string.match(ticket, '^([^\n]*)\n([^\n]*)\n')
      local grant = table.concat({account, owner, fence, '?' .. attempt, word(now_ms), about}, '\n')
      redis.call('SET', LOCK, grant, 'PX', word(window_ms))
      -- A hint: whether it may be sent, and arrives, is not what counts.
      redis.pcall('PUBLISH', pod, attempt)
      return grant
    end
    ticket = redis.call('ZRANGE', LINE, 0, 0)[1]
  end
  return nil
end

-- Drops places that nobody has asked for in time. A few at a time, so that no
-- script takes long; every request that joins the line calls this.
local function sweep(now_ms)
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEPT, '-inf', word(now_ms), 'LIMIT', '0', '20')) do
    drop_ticket(ticket)
  end
end
