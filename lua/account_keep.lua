-- Keeps what was read of a token from the account database, unless its account
-- has changed since: a slow reader must not put back what was forgotten.
--
-- KEYS[1] entry, KEYS[2] floor, KEYS[3] floors: as in account_find.lua
-- ARGV[1] seq: the number of the last change when the entry was read
-- ARGV[2] keep_ms: for how long to keep it
-- ARGV[3] account, ARGV[4] entry
--
-- Returns one of
--   {'kept'}
--   {'stale'}
local seq = tonumber(ARGV[1])
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
if seq < math.max(floor, tonumber(redis.call('ZSCORE', KEYS[3], ARGV[3]) or 0)) then
  return {'stale'}
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[3] .. '\n' .. ARGV[4], 'PX', ARGV[2])
return {'kept'}
