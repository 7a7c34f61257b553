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
--   {'broken', until_ms}   until_ms: the latest expiry in its journal row: the lock is
--                  free once that has recorded the end and settle_end.lua has run;
--                  '0' for a grant without a row, whose lock is free
--   {'unsettled'}  as in heartbeat.lua
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
if is_closed(redis.call('GET', CLOCK)) then
  return {'unsettled'}
end
local head, account = string.match(grant, '^(([^\n]*)\n[^\n]*\n)')
local fence, seq, until_ms, mark, _, rest = read_grant(grant, #head + 1)
if account ~= ARGV[1] or fence ~= ARGV[3] then
  return {'held_by_another'}
end
-- mend: BreakJournaled
if until_ms ~= '' then
  -- The holder does not know. If the journal restored its grant after a loss, there
  -- could be two: so the lock stays closed until the journal has recorded the end.
  if mark ~= '#' then
    local rest_ms = word(redis.call('PTTL', LOCK))
    redis.call('PEXPIRE', LOCK, rest_ms)
    redis.call('SET', LOCK, head .. fence .. ' ' .. seq .. ' ' .. until_ms .. '\n#\n' .. rest, 'PX', rest_ms)
    end_grant(now, head, ARGV[2], fence, until_ms)
  end
  return {'broken', until_ms}
end
-- mend end
redis.call('DEL', LOCK)
redis.call('ZREM', HELD, ARGV[2])
--@off BreakJournaled: if until_ms ~= '' then end_grant(now, head, ARGV[2], fence, until_ms) hand_over(now) return {'broken', until_ms} end
hand_over(now)
return {'broken', '0'}
