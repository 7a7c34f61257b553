-- Writes the caller of a token, as read from the account database, to the token cache. A slow
-- reader must not restore an invalidated entry: the script discards the entry if the
-- account has changed since the read.
--
-- KEYS[1] entry, KEYS[2] floor, KEYS[3] floors: as in cache_get_caller.lua
-- ARGV[1] seq: the number of the last change at the time of the read
-- ARGV[2] ttl_ms: the lifetime of the cached entry
-- ARGV[3] account, ARGV[4] entry
--
-- Returns one of
--   {'cached'}  written
--   {'stale'}   discarded
local seq = tonumber(ARGV[1])
local floor = tonumber(redis.call('GET', KEYS[2]) or 0)
if seq < math.max(floor, tonumber(redis.call('ZSCORE', KEYS[3], ARGV[3]) or 0)) then
  return {'stale'}
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[3] .. '\n' .. ARGV[4], 'PX', ARGV[2])
return {'cached'}
