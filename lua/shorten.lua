-- Shortens the lease of a grant in the store, after its journal row was shortened. In
-- the other order, the lock could be granted to another holder while the journal still
-- restores the former one.
--
-- KEYS[1] lock, KEYS[2] held: as in keys.lua
-- ARGV[1] holder_prefix, ARGV[2] lock_key: as in acquire.lua
-- ARGV[3] fence, ARGV[4] seq: the recorded change
-- ARGV[5] expires_ms: the recorded expiry
-- ARGV[6] deadline_us: the script changes nothing after this time: later, a heartbeat may
--         have been confirmed that is not journaled
--
-- Returns one of
--   {'shortened'}
--   {'changed'}   the grant has ended, was renewed since, or has no longer lease
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[6]) then
  return {'late'}
end
local now_ms = math.floor(now / 1000)
local grant, holder_prefix = redis.call('GET', KEYS[1]), ARGV[1]
if not grant or string.sub(grant, 1, #holder_prefix) ~= holder_prefix then
  return {'changed'}
end
local fence, seq, until_ms, mark, attempt, tail = read_grant(grant, #holder_prefix + 1)
if fence ~= ARGV[3] or seq ~= ARGV[4] or mark ~= '' or tonumber(until_ms) <= tonumber(ARGV[5]) then
  return {'changed'}
end
local ttl_ms = math.max(math.min(tonumber(ARGV[5]) - now_ms, redis.call('PTTL', KEYS[1])), 1)
local fence_line = fence .. ' ' .. seq .. ' ' .. ARGV[5]
redis.call('PEXPIRE', KEYS[1], format_int(ttl_ms))
redis.call('SET', KEYS[1], holder_prefix .. fence_line .. '\n' .. attempt .. '\n' .. tail, 'PX', format_int(ttl_ms))
redis.call('ZADD', KEYS[2], 'XX', format_int(now_ms + ttl_ms), ARGV[2])
return {'shortened'}
