-- Looks after a line for a server that has waiters in it: a lock whose lease
-- has lapsed is handed to the first of them.
--
-- KEYS[1...10] as in keys.lua; nothing of an account is touched
--
-- Returns one of
--   {'held', rest_ms, waiting, attempt, handed_over}
--                       how many tickets wait, the attempt that has the lock to
--                       collect, or '', and '1' if it was handed over here
--   {'recovering', rest_ms, waiting}      nobody may have it yet
--   {'free', '0'}                         nobody holds it, and nobody waits
--   {'busy', '0'}                         look again, as in acquire.lua
local now = time_us()
local grant, handed_over = redis.call('GET', LOCK), '0'
if not grant then
  local is_unfinished
  grant, is_unfinished = hand_over(now)
  handed_over = '1'
  if is_unfinished then
    return {'busy', '0'}
  end
end
if not grant then
  local waiting = redis.call('ZCARD', LINE)
  local recovery_ms = waiting > 0 and rest_of_recovery(now)
  if recovery_ms then
    return {'recovering', word(recovery_ms), word(waiting)}
  end
  return {'free', '0'}
end
sweep(math.floor(now / 1000))
local attempt = string.match(grant, '^[^\n]*\n[^\n]*\n%d+[^\n]*\n%?([^\n]*)') or ''
return {'held', word(redis.call('PTTL', LOCK)), word(redis.call('ZCARD', LINE)), attempt, handed_over}
