-- Keeps what was read of a token from the account database, unless something
-- has changed since: a slow reader must not put back what was forgotten.
--
-- KEYS[1] entry     as in account_find.lua
-- KEYS[2] revision  string: the number of the last change that was forgotten
-- ARGV[1] seq: the number of the last change when the entry was read
-- ARGV[2] keep_ms: for how long to keep it
-- ARGV[3] entry
--
-- Returns one of
--   {'kept'}
--   {'stale'}
if tonumber(ARGV[1]) < tonumber(redis.call('GET', KEYS[2]) or 0) then
  return {'stale'}
end
redis.call('SET', KEYS[1], ARGV[1] .. '\n' .. ARGV[3], 'PX', ARGV[2])
return {'kept'}
