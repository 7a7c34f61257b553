-- The line of those who wait for a lock. It stands behind entries.lua.

-- How long a waiter has to collect the lock that was handed to it. Servers look
-- after their lines more often than that, so a lost message costs no place.
local COLLECT_MS = 5000
-- How many tickets of servers that are gone one script takes out of the queue: each
-- takes Redis some 13 us, and others wait meanwhile.
local GONE_MAX = 64

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

-- Hands the lock, which must be free, to the first in line who can collect it,
-- and tells its server. Returns the new grant, or nothing when nobody waits, or
-- a recovery lets nobody have it yet; then whether others may stand behind those
-- that it took out of the queue, so that it is to be called again.
local function hand_over(now)
  local now_ms = math.floor(now / 1000)
  for _ = 1, GONE_MAX do
    local ticket, position = unpack(redis.call('ZRANGE', LINE, 0, 0, 'WITHSCORES'))
    if not ticket then
      return nil, false
    end
    local attempt, pod, _, about = read_ticket(ticket)
    local fence = attempt ~= nil and is_alive(pod, now_ms) and next_fence(now)
    if fence == nil then
      return nil, false
    end
    if attempt and string.sub(ticket, -1) == '\n' then
      -- Should nobody collect it, or its server be gone, its owner can come back.
      reserve(ticket, attempt, pod, word(tonumber(position)), about, now_ms + (fence and COLLECT_MS or 0) + KEEP_MS)
    else
      drop_ticket(ticket)
    end
    if fence then
      local account, owner = string.match(ticket, '^([^\n]*)\n([^\n]*)\n')
      local grant = table.concat({account, owner, fence, '?' .. attempt, word(now_ms) .. about}, '\n')
      redis.call('SET', LOCK, grant, 'PX', word(COLLECT_MS))
      -- A hint: whether it may be sent, and arrives, is not what counts.
      redis.pcall('PUBLISH', pod, attempt)
      return grant, false
    end
  end
  return nil, true
end

-- Drops positions that nobody has asked for in time. A few at a time, so that no
-- script takes long; every request that joins the line calls this.
local function sweep(now_ms)
  for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', KEPT, '-inf', word(now_ms), 'LIMIT', '0', '20')) do
    drop_ticket(ticket)
  end
end
