-- Tombstones of grants that end before their expiry. Included after keys.lua.

-- The maximum number of tombstones in a hash slot. Ends beyond it are recorded in the
-- journal only, by the server that ends the grant.
local ENDED_MAX = 100000

-- Adds a tombstone for an ended grant with a journal row, until the journal has recorded
-- the end: any server that reads it records the end, also when the server that ended
-- the grant is dead. The caller must have deleted something before: then Redis accepts
-- this write when its memory is full. Removes up to 20 expired tombstones.
local function add_tombstone(now, holder_prefix, lock_key, fence, until_ms)
  local now_ms = math.floor(now / 1000)
  for _, expired in ipairs(redis.call('ZRANGEBYSCORE', ENDED, '-inf', format_int(now_ms), 'LIMIT', '0', '20')) do
    redis.call('ZREM', ENDED, expired)
  end
  local ttl_ms = tonumber(until_ms) - now_ms
  if ttl_ms <= 0 or redis.call('ZCARD', ENDED) >= ENDED_MAX then
    return
  end
  redis.call('ZADD', ENDED, until_ms, fence .. ' ' .. string.match(holder_prefix, '^[^\n]*') .. ' ' .. lock_key)
  if redis.call('PTTL', ENDED) < ttl_ms then
    redis.call('PEXPIRE', ENDED, format_int(ttl_ms))
  end
end
