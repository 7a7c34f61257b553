-- Shortens the lease of a grant in the store, once its journal row is as short. In
-- the other order the lock could be granted to another holder while the journal
-- still restores the former one.
--
-- KEYS[1] lock, KEYS[2] held: as in keys.lua
-- ARGV[1] head, ARGV[2] place: as in acquire.lua
-- ARGV[3] fence, ARGV[4] seq: the change that was recorded
-- ARGV[5] expires_ms: the expiry that was recorded
-- ARGV[6] deadline_us: the time after which nothing may be done any more: a heartbeat may
--         have been confirmed since that the journal need not know of
--
-- Returns one of
--   {'shortened'}
--   {'changed'}   the grant has ended, was renewed since, or is as short already
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[6]) then
  return {'late'}
end
local now_ms = math.floor(now / 1000)
local grant, head = redis.call('GET', KEYS[1]), ARGV[1]
if not grant or string.sub(grant, 1, #head) ~= head then
  return {'changed'}
end
local fence, seq, until_ms, mark, attempt, rest = read_grant(grant, #head + 1)
if fence ~= ARGV[3] or seq ~= ARGV[4] or mark ~= '' or tonumber(until_ms) <= tonumber(ARGV[5]) then
  return {'changed'}
end
local rest_ms = math.max(math.min(tonumber(ARGV[5]) - now_ms, redis.call('PTTL', KEYS[1])), 1)
local line = fence .. ' ' .. seq .. ' ' .. ARGV[5]
redis.call('PEXPIRE', KEYS[1], word(rest_ms))
redis.call('SET', KEYS[1], head .. line .. '\n' .. attempt .. '\n' .. rest, 'PX', word(rest_ms))
redis.call('ZADD', KEYS[2], 'XX', word(now_ms + rest_ms), ARGV[2])
return {'shortened'}
