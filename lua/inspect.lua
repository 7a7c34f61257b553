-- Says who holds a lock and how many wait for it, and changes nothing.
--
-- KEYS[1] lock, KEYS[2] line, KEYS[3] bucket, KEYS[4] tickets, KEYS[5] kept: as in
-- keys.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate; both '' when already paid
-- ARGV[3] ticket: that of an owner whose place is asked for; '' for nobody's
--
-- Returns one of
--   {'held', backlog_us, rest_ms, expires_ms, grant, waiting, place}
--   {'free', backlog_us, waiting, place}   with waiters only between a lapse and the
--                                   moment in which the first of them has it
--   {'rate_limited', backlog_us, retry_after_us}
-- where place is '1' for the first in line, '0' for who is not in it.
local now = time_us()
local backlog, refusal = pay(KEYS[3], now, ARGV[1], ARGV[2])
if refusal then
  return refusal
end
local now_ms = math.floor(now / 1000)
local reserved = redis.call('ZCOUNT', KEYS[5], word(now_ms + 1), '+inf')
local in_line = redis.call('ZCARD', KEYS[2])
local rank = ARGV[3] ~= '' and redis.call('ZRANK', KEYS[2], ARGV[3])
local until_ms = ARGV[3] ~= '' and not rank and redis.call('ZSCORE', KEYS[5], ARGV[3])
if until_ms and tonumber(until_ms) > now_ms then
  local position = string.match(redis.call('HGET', KEYS[4], ARGV[3]) or '', '^[^\n]*\n[^\n]*\n(%d+)\n')
  rank = position and in_line - redis.call('ZCOUNT', KEYS[2], position, '+inf')
end
local waiting = word(in_line + reserved)
local place = word(rank and rank + 1 or 0)
local grant = redis.call('GET', KEYS[1])
if not grant then
  return {'free', backlog, waiting, place}
end
local rest_ms = redis.call('PTTL', KEYS[1])
return {'held', backlog, word(rest_ms), word(now_ms + rest_ms), grant, waiting, place}
