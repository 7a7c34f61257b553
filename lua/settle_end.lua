-- Removes the tombstone of an ended grant, after its journal row has recorded the end,
-- and frees the lock if it still has the grant: a broken grant keeps its lock closed
-- until then, and a recovery that read the row earlier has restored the grant.
--
-- KEYS[1...10] as in keys.lua
-- ARGV[1] lock_key: the member of `held`
-- ARGV[2] fence, ARGV[3] account, ARGV[4] until_ms: of the grant, as in keys.lua
--
-- Returns one of
--   {'settled'}
--   {'closed'}   a recovery is comparing the grants with the journal, and may restore
--                this one; the tombstone stays, for any server to settle afterwards
local now = time_us()
-- safeguard: EndSettled
if is_closed(redis.call('GET', CLOCK)) then
  add_tombstone(now, ARGV[3] .. '\n', ARGV[1], ARGV[2], ARGV[4])
  return {'closed'}
end
-- safeguard end
redis.call('ZREM', ENDED, ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[1])
local grant = redis.call('GET', LOCK)
local from = grant and string.find(grant, '\n', string.find(grant, '\n', 1, true) + 1, true) + 1
local fence, _, _, mark = read_grant(grant or '', from or 1)
local is_over = fence == ARGV[2]
--@off EndSettled: is_over = is_over and mark == '#'
if is_over then
  redis.call('DEL', LOCK)
  redis.call('ZREM', HELD, ARGV[1])
  hand_over(now)
end
return {'settled'}
