-- Records that a server is alive, so that its queued requests can receive locks.
--
-- KEYS[1] pods: as in keys.lua
-- ARGV[1] pod: the channel of the server
-- ARGV[2] life_ms: how long the server counts as alive after this call
-- ARGV[3] absent_ms: when the newest entry has expired for longer than this, Redis was
--         unavailable, not the servers
--
-- Returns one of
--   {'alive'}
--   {'returned'}   the server did not count as alive: hand-overs may have skipped its
--                  queued requests
local now_ms = math.floor(time_us() / 1000)
local life_ms = tonumber(ARGV[2])
local before = redis.call('ZSCORE', KEYS[1], ARGV[1])
local newest = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
local newest_ms = tonumber(newest or now_ms + life_ms)
if newest_ms - life_ms + tonumber(ARGV[3]) < now_ms or newest_ms > now_ms + life_ms then
  -- Redis was unavailable, or the clock was set back: all servers that were alive at the
  -- end of the earlier time count as alive for life_ms.
  for _, pod in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], format_int(newest_ms - life_ms), '+inf')) do
    redis.call('ZADD', KEYS[1], format_int(now_ms + life_ms), pod)
  end
else
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. format_int(now_ms - 60000))
end
redis.call('ZADD', KEYS[1], format_int(now_ms + life_ms), ARGV[1])
redis.call('PEXPIRE', KEYS[1], '600000')
return {before and tonumber(before) >= now_ms and 'alive' or 'returned'}
