-- Reads the holder of a lock, the number of queued requests, and the position of an
-- owner. Changes nothing but the rate.
--
-- KEYS[1] lock, KEYS[2] queue, KEYS[3] bucket, KEYS[4] entries, KEYS[5] reserved: as in
-- keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] entry: the entry of the owner whose position to read; '' for none
--
-- Returns one of
--   {'held', backlog_us, ttl_ms, expires_ms, grant, waiting, position}
--   {'free', backlog_us, waiting, position}   waiting is not '0' only between an expiry
--                                   and the hand-over that follows it
--   {'rate_limited', backlog_us, retry_after_us}
-- position: '1' for the first entry, '0' without an entry.
local now = time_us()
local backlog, refusal = pay(KEYS[3], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
local now_ms = math.floor(now / 1000)
local reserved = redis.call('ZCOUNT', KEYS[5], format_int(now_ms + 1), '+inf')
local queued = redis.call('ZCARD', KEYS[2])
local rank = ARGV[3] ~= '' and redis.call('ZRANK', KEYS[2], ARGV[3])
local until_ms = ARGV[3] ~= '' and not rank and redis.call('ZSCORE', KEYS[5], ARGV[3])
if until_ms and tonumber(until_ms) > now_ms then
  local score = string.match(redis.call('HGET', KEYS[4], ARGV[3]) or '', '^[^\n]*\n[^\n]*\n(%d+)\n')
  rank = score and queued - redis.call('ZCOUNT', KEYS[2], score, '+inf')
end
local waiting = format_int(queued + reserved)
local position = format_int(rank and rank + 1 or 0)
local grant = redis.call('GET', KEYS[1])
if not grant then
  return {'free', backlog, waiting, position}
end
local ttl_ms = redis.call('PTTL', KEYS[1])
return {'held', backlog, format_int(ttl_ms), format_int(now_ms + ttl_ms), grant, waiting, position}
