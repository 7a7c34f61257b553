-- Counts the held locks and queued requests of several accounts in one hash slot.
--
-- KEYS[1], KEYS[2] held and waiting of the first account, KEYS[3], KEYS[4] those of
-- the second, and so on: as in keys.lua
--
-- Returns {'counted', held, waiting, held, waiting...}
local now_ms = format_int(math.floor(time_us() / 1000))
local counted = {'counted'}
for at = 1, #KEYS do
  counted[at + 1] = format_int(redis.call('ZCOUNT', KEYS[at], now_ms, '+inf'))
end
return counted
