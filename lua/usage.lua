-- Counts an account's held locks and queued requests.
--
-- KEYS[1] held, KEYS[2] waiting, KEYS[3] bucket: as in keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
--
-- Returns one of
--   {'counted', backlog_us, held, waiting}
--   {'rate_limited', backlog_us, retry_after_us}
local now = time_us()
local backlog, refusal = pay(KEYS[3], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
local now_ms = format_int(math.floor(now / 1000))
local held = redis.call('ZCOUNT', KEYS[1], now_ms, '+inf')
return {'counted', backlog, format_int(held), format_int(redis.call('ZCOUNT', KEYS[2], now_ms, '+inf'))}
