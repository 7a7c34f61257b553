-- Looks after a line for a server that has waiters in it: a lock whose lease
-- has lapsed is handed to the first of them.
--
-- KEYS[1...9] as in keys.lua; nothing of an account is touched
--
-- Returns one of
--   {'held', rest_ms, waiting, attempt}   how many tickets wait, and the attempt
--                                         that has the lock to collect, or ''
--   {'free', '0'}                         nobody holds it, and nobody waits
local now = time_us()
local grant = redis.call('GET', LOCK) or hand_over(now)
if not grant then
  return {'free', '0'}
end
sweep(math.floor(now / 1000))
local attempt = string.match(grant, '^[^\n]*\n[^\n]*\n%d+\n%?([^\n]*)') or ''
return {'held', word(redis.call('PTTL', LOCK)), word(redis.call('ZCARD', LINE)), attempt}
