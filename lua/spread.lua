-- Sees to it that nobody works any more with all locks of a cluster in one hash
-- slot. Servers that do so know nothing of the locks that are granted in others:
-- beside these they would give one lock to two.
--
-- KEYS[1] pods, KEYS[2] home, KEYS[3] clock: those of that slot
-- KEYS[4...6] the same, of the layout before
--
-- Returns one of
--   {'in_use'}            a server that does so is there
--   {'closed', age_ms}    how long ago one could have granted locks
--   {'open'}              none ever could
local now = time_us()
for at = 1, #KEYS, 3 do
  local newest_ms = redis.call('ZRANGE', KEYS[at], -1, -1, 'WITHSCORES')[2]
  local is_closed = type(redis.pcall('GET', KEYS[at + 1])) == 'table'
  if not is_closed and newest_ms and tonumber(newest_ms) * 1000 >= now then
    return {'in_use'}
  end
end

local closed_us = 0
for at = 1, #KEYS, 3 do
  local home, clock = KEYS[at + 1], KEYS[at + 2]
  local found = redis.pcall('GET', home)
  if type(found) == 'table' then
    closed_us = math.max(closed_us, tonumber(redis.call('HGET', home, 'at') or 0))
  else
    redis.call('DEL', home, clock)
    -- Whoever expects a text here fails at once, at the start or with the next grant.
    -- With its memory full Redis refuses this where there was nothing to delete.
    redis.pcall('HSET', clock, 'closed', 'the locks of this cluster are spread over its nodes')
    redis.pcall('HSET', home, 'closed', 'the locks of this cluster are spread over its nodes', 'at', found and word(now) or '0')
    closed_us = found and now or closed_us
  end
end
if closed_us == 0 then
  return {'open'}
end
return {'closed', word(math.max(math.floor((now - closed_us) / 1000), 0))}
