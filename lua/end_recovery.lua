-- Ends the closed phase of a recovery, after restore.lua has restored all journaled
-- grants. In the waiting phase that follows, forgotten short leases expire.
--
-- KEYS[1] primary: as in register_primary.lua, KEYS[2] clock: as in keys.lua
-- ARGV[1] primary: the value that identifies the recovery
-- ARGV[2] wait_ms: the time from the beginning of the recovery to the first new grant
-- ARGV[3] fence: an upper bound of all earlier fences, as far as servers and the
--         database have seen them; '0' for none
--
-- Returns one of
--   {'open'}
--   {'waiting', remaining_ms}
--   {'over'}   the recovery has ended, or a new one has begun
local last = string.match(redis.call('GET', KEYS[2]) or '', '^(%d+) closed$')
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last then
  return {'over'}
end
last = format_int(math.max(tonumber(last), tonumber(ARGV[3])))
local now_ms = math.floor(time_us() / 1000)
-- After the clock was set back, the beginning of the recovery can be in the future.
local begun_ms = math.min(math.floor(tonumber(string.match(ARGV[1], '(%d+) %d+$')) / 1000), now_ms)
local remaining_ms = begun_ms + tonumber(ARGV[2]) - now_ms
if remaining_ms <= 0 then
  redis.call('SET', KEYS[2], last)
  return {'open'}
end
redis.call('SET', KEYS[2], last .. ' ' .. format_int(now_ms + remaining_ms))
return {'waiting', format_int(remaining_ms)}
