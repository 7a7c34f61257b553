-- Polls the queue of a lock for a server with queued requests, and hands the lock over
-- to the first entry if its lease has expired.
--
-- KEYS[1...10] as in keys.lua, of which the account's keys are not used
--
-- Returns one of
--   {'held', ttl_ms, waiting, attempt, handed_over}
--                       waiting: the number of entries. attempt: the attempt that can
--                       claim the lock, '' for none. handed_over: '1' if this call has
--                       handed the lock over, '0' otherwise
--   {'recovering', remaining_ms, waiting}   a recovery prevents all grants
--   {'free', '0'}                           no grant, and an empty queue
--   {'busy', '0'}                           call again, as in acquire.lua
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
  local waiting = redis.call('ZCARD', QUEUE)
  local recovery_ms = waiting > 0 and recovery_remaining_ms(now)
  if recovery_ms then
    return {'recovering', format_int(recovery_ms), format_int(waiting)}
  end
  return {'free', '0'}
end
expire_reservations(math.floor(now / 1000))
local attempt = string.match(grant, '^[^\n]*\n[^\n]*\n%d+[^\n]*\n%?([^\n]*)') or ''
return {'held', format_int(redis.call('PTTL', LOCK)), format_int(redis.call('ZCARD', QUEUE)), attempt, handed_over}
