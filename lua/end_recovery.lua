-- Ends the first part of a recovery: all is back that can be. What was granted
-- for a short lease and forgotten lapses in the second.
--
-- KEYS[1] home: as in register_primary.lua, KEYS[2] clock: as in keys.lua
-- ARGV[1] home: that of the recovery that is meant
-- ARGV[2] wait_ms: how long after its beginning grants are made again
-- ARGV[3] fence: one that no fence given before exceeds, as far as servers and the
--         database know; or '0'
--
-- Returns one of
--   {'open'}
--   {'waiting', rest_ms}
--   {'over'}   the recovery has gone on without this
local last = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) closed$')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last then
  return {'over'}
end
last = word(math.max(tonumber(last), tonumber(ARGV[3])))
local now_ms = math.floor(time_us() / 1000)
-- The clock may have been set back, and the beginning lie ahead of it.
local begun_ms = math.min(math.floor(tonumber(string.match(ARGV[1], '(%d+) %d+$')) / 1000), now_ms)
local rest_ms = begun_ms + tonumber(ARGV[2]) - now_ms
if rest_ms <= 0 then
  redis.call('SET', KEYS[2], last)
  return {'open'}
end
redis.call('SET', KEYS[2], last .. ' ' .. word(now_ms + rest_ms))
return {'waiting', word(rest_ms)}
