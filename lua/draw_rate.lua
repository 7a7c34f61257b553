-- Draws credits from an account's rate, several per call, for one server to use.
--
-- KEYS[1] bucket: see prelude.lua
-- ARGV[1] interval_us, ARGV[2] burst_us: the rate
-- ARGV[3] wanted: the maximum number of credits
--
-- Returns one of
--   {'granted', backlog_us, credits}                1 <= credits <= wanted
--   {'rate_limited', backlog_us, retry_after_us}
-- backlog_us: the time until the rate is unused again.
local charged, backlog, retry_after =
  charge(KEYS[1], time_us(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
if charged == 0 then
  return {'rate_limited', format_int(backlog), format_int(math.ceil(retry_after))}
end
return {'granted', format_int(backlog), format_int(charged)}
