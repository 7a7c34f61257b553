-- Breaks a grant of an account, whoever of the account holds it, and hands the
-- lock to the first in line.
--
-- KEYS[1...10] as in keys.lua; nothing is charged
-- ARGV[1] account: whose lock it must be
-- ARGV[2] place: what stands in `held`
-- ARGV[3] fence: that of the grant to break
-- ARGV[4] deadline_us: the time after which nothing may be done any more
--
-- Returns one of
--   {'broken', rest_ms}   rest_ms: of the lease
--   {'not_held'}
--   {'held_by_another'}   also when the fence is not the current one
--   {'late'}
local now = time_us()
if now > tonumber(ARGV[4]) then
  return {'late'}
end
local grant = redis.call('GET', LOCK)
if not grant then
  return {'not_held'}
end
local account, fence = string.match(grant, '^([^\n]*)\n[^\n]*\n(%d+)\n')
if account ~= ARGV[1] or fence ~= ARGV[3] then
  return {'held_by_another'}
end
local rest_ms = redis.call('PTTL', LOCK)
redis.call('DEL', LOCK)
redis.call('ZREM', HELD, ARGV[2])
end_grant(ARGV[2], fence, rest_ms)
hand_over(now)
return {'broken', word(rest_ms)}
