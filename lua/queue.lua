-- Hands locks over to queued requests. Included after entries.lua.

-- The time in which a queued request must claim a lock after its hand-over. Servers poll
-- their queues more often, so a lost message does not cost a request its position.
local CLAIM_MS = 5000
-- The maximum number of entries of dead servers that one script removes: each takes Redis
-- about 13 us, which delays other commands.
local DEAD_ENTRIES_MAX = 64

-- The time in ms until a recovery ends; nil when there is none.
local function recovery_remaining_ms(now)
  local clock = redis.call('GET', CLOCK)
  if tonumber(clock) then
    return nil
  end
  local until_ms = string.match(clock or '', ' (%d+)$')
  if not until_ms then
    -- The duration of the closed phase is unknown.
    return 1000
  end
  local remaining_ms = tonumber(until_ms) - math.floor(now / 1000)
  return remaining_ms > 0 and remaining_ms or nil
end

-- Whether a server can claim a lock. When no server counts as alive, Redis was
-- unavailable, and all servers are assumed to be alive.
local function is_alive(pod, now_ms)
  local until_ms = redis.call('ZSCORE', PODS, pod)
  if until_ms and tonumber(until_ms) >= now_ms then
    return true
  end
  local newest = redis.call('ZRANGE', PODS, -1, -1, 'WITHSCORES')[2]
  return not newest or tonumber(newest) < now_ms
end

-- Hands the lock, which must be free, over to the first entry with a live server, and
-- notifies that server. Returns the new grant, or nil for an empty queue or in a
-- recovery; then whether DEAD_ENTRIES_MAX was reached, so that the caller must call
-- again.
local function hand_over(now)
  local now_ms = math.floor(now / 1000)
  for _ = 1, DEAD_ENTRIES_MAX do
    local entry, position = unpack(redis.call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES'))
    if not entry then
      return nil, false
    end
    local attempt, pod, _, metadata = read_entry(entry)
    local fence = attempt ~= nil and is_alive(pod, now_ms) and next_fence(now)
    if fence == nil then
      return nil, false
    end
    if attempt and string.sub(entry, -1) == '\n' then
      -- The owner can return to its position when its server is dead or its request does
      -- not claim the lock.
      local until_ms = now_ms + (fence and CLAIM_MS or 0) + RESERVE_MS
      reserve(entry, attempt, pod, format_int(tonumber(position)), metadata, until_ms)
    else
      remove_entry(entry)
    end
    if fence then
      local account, owner = string.match(entry, '^([^\n]*)\n([^\n]*)\n')
      local grant = table.concat({account, owner, fence, '?' .. attempt, format_int(now_ms) .. metadata}, '\n')
      redis.call('SET', LOCK, grant, 'PX', format_int(CLAIM_MS))
      -- pcall: the message is a hint, and its failure is harmless.
      redis.pcall('PUBLISH', pod, attempt)
      return grant, false
    end
  end
  return nil, true
end

-- Removes up to 20 expired reservations: the limit bounds the time of the script, and
-- every request that joins the queue calls this.
local function expire_reservations(now_ms)
  for _, entry in ipairs(redis.call('ZRANGEBYSCORE', RESERVED, '-inf', format_int(now_ms), 'LIMIT', '0', '20')) do
    remove_entry(entry)
  end
end
