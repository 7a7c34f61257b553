-- Draws permits from an account's rate, several at a time, for a pod to hand out.
--
-- KEYS[1] bucket: see prelude.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate
-- ARGV[3] wanted: how many permits at most
--
-- Returns one of
--   {'granted', backlog_us, permits}                1 <= permits <= wanted
--   {'rate_limited', backlog_us, retry_after_us}
-- where backlog_us is how far the bucket's time lies ahead.
local charged, backlog, retry_after =
  charge(KEYS[1], time_us(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
if charged == 0 then
  return {'rate_limited', word(backlog), word(math.ceil(retry_after))}
end
return {'granted', word(backlog), word(charged)}
