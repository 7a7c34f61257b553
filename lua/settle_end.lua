-- Forgets that a grant has ended, once its journal row says so, and frees the lock
-- if it was broken: until then nobody else may have it.
--
-- KEYS[1...10] as in keys.lua
-- ARGV[1] place: what stands in `held`
-- ARGV[2] fence, ARGV[3] account: those of the grant
--
-- Returns {'settled'}
local now = time_us()
redis.call('ZREM', ENDED, ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[1])
local grant = redis.call('GET', LOCK)
local from = grant and string.find(grant, '\n', string.find(grant, '\n', 1, true) + 1, true) + 1
local fence, _, _, mark = read_grant(grant or '', from or 1)
if fence == ARGV[2] and mark == '#' then
  redis.call('DEL', LOCK)
  redis.call('ZREM', HELD, ARGV[1])
  hand_over(now)
end
return {'settled'}
