-- Puts grants of long leases back, each with its fence, unless a later grant of
-- the same lock is there, or it has ended meanwhile.
--
-- KEYS[1] home: as in arrive.lua, KEYS[2] clock, KEYS[3] ended: as in keys.lua; then
-- for each grant KEYS[n] lock, KEYS[n + 1] held: as in keys.lua
-- ARGV[1] home: process and epoch of the recovery that is meant
-- ARGV[2...] for each grant its place, the time in ms at which it lapses, and the
--            grant as it stands in `lock`
--
-- Returns one of
--   {'restored', count}
--   {'over'}   the recovery has gone on without this
local clock = redis.call('GET', KEYS[2])
local last = tonumber(string.match(clock or '', '^(%d+) closed$'))
if redis.call('GET', KEYS[1]) ~= ARGV[1] or not last then
  return {'over'}
end

local now_ms = math.floor(time_us() / 1000)
local function fence_of(grant)
  return tonumber(string.match(grant or '', '^[^\n]*\n[^\n]*\n(%d+)\n') or 0)
end

local restored = 0
for at = 1, (#KEYS - 3) / 2 do
  local lock, held = KEYS[2 * at + 2], KEYS[2 * at + 3]
  local place, expires_ms, grant = ARGV[3 * at - 1], ARGV[3 * at], ARGV[3 * at + 1]
  local rest_ms = tonumber(expires_ms) - now_ms
  local fence, present = fence_of(grant), fence_of(redis.call('GET', lock))
  local ended = tonumber(redis.call('HGET', KEYS[3], place) or 0)
  last = math.max(last, fence)
  if rest_ms > 0 and fence >= present and fence > ended then
    if fence > present then
      redis.call('SET', lock, grant, 'PX', word(rest_ms))
      restored = restored + 1
    else
      -- It may have lost a renewal.
      redis.call('PEXPIRE', lock, word(rest_ms), 'GT')
    end
    redis.call('ZADD', held, expires_ms, place)
    if redis.call('PTTL', held) < rest_ms then
      redis.call('PEXPIRE', held, word(rest_ms))
    end
  end
end
redis.call('SET', KEYS[2], word(last) .. ' closed')
return {'restored', word(restored)}
