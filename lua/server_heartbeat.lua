-- Says that a server is there, and that those who wait in it can collect.
--
-- KEYS[1] pods: as in keys.lua
-- ARGV[1] pod: the channel it listens to
-- ARGV[2] life_ms: for how long it counts as alive from now on
-- ARGV[3] absent_ms: how much older the newest life of all may be before it was
--         Redis that was away
--
-- Returns one of
--   {'alive'}
--   {'returned'}   it was not counted as alive: its waiters may have been skipped
local now_ms = math.floor(time_us() / 1000)
local life_ms = tonumber(ARGV[2])
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local newest_ms = tonumber(newest or now_ms + life_ms)
if newest_ms - life_ms + tonumber(ARGV[3]) < now_ms or newest_ms > now_ms + life_ms then
  -- Nobody could say anything for a while, or the clock was set back. All who
  -- were there to the end have as long from now on.
  for _, pod in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], word(newest_ms - life_ms), '+inf')) do
    redis.call('ZADD', KEYS[1], word(now_ms + life_ms), pod)
  end
else
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. word(now_ms - 60000))
end
redis.call('ZADD', KEYS[1], word(now_ms + life_ms), ARGV[1])
redis.call('PEXPIRE', KEYS[1], '600000')
return {before and tonumber(before) >= now_ms and 'alive' or 'returned'}
