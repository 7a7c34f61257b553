-- Says who holds a lock and how many wait for it, and changes nothing.
--
-- KEYS[1] lock, KEYS[2] line, KEYS[3] bucket: as in keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
--
-- Returns one of
--   {'held', backlog_us, rest_ms, expires_ms, grant, waiting}
--   {'free', backlog_us, waiting}   with waiters only between a lapse and the
--                                   moment in which the first of them has it
--   {'rate_limited', backlog_us, retry_after_us}
local now = time_us()
local backlog, refusal = pay(KEYS[3], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
local waiting = word(redis.call('ZCARD', KEYS[2]))
local grant = redis.call('GET', KEYS[1])
if not grant then
  return {'free', backlog, waiting}
end
local rest_ms = redis.call('PTTL', KEYS[1])
return {'held', backlog, word(rest_ms), word(math.floor(now / 1000) + rest_ms), grant, waiting}
