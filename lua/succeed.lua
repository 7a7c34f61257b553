-- Sees to it that nobody works with the layout before this one any more. Servers
-- with that layout know nothing of the locks that are granted here, nor these of
-- theirs: beside each other they would give one lock to two.
--
-- KEYS[1] pods, KEYS[2] home, KEYS[3] clock: those of the layout before
-- KEYS[4] home, KEYS[5] clock: as in arrive.lua
--
-- Returns one of
--   {'in_use'}    a server with that layout is there
--   {'closed'}    until now it could have been used: a recovery is to begin from
--                 here on, since what was granted there has to lapse first
--   {'open'}      nobody can have used it since it was closed, or at all
local home = redis.pcall('GET', KEYS[2])
if type(home) == 'table' then
  return {'open'}
end
local newest_ms = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
if newest_ms and tonumber(newest_ms) * 1000 >= time_us() then
  return {'in_use'}
end

local fence = home and string.match(redis.call('GET', KEYS[3]) or '', '^%d+')
redis.call('DEL', KEYS[2], KEYS[3])
-- Whoever expects a text here fails at once, at the start or with the next grant.
-- With its memory full Redis refuses this where there was nothing to delete.
redis.pcall('HSET', KEYS[2], 'closed', 'this Redis is used with a newer layout')
redis.pcall('HSET', KEYS[3], 'closed', 'this Redis is used with a newer layout')
if not home then
  return {'open'}
end
-- Fences go on rising, and a recovery that has begun before begins anew.
local last = string.match(redis.call('GET', KEYS[5]) or '0', '^%d+')
redis.call('SET', KEYS[5], word(math.max(tonumber(last), tonumber(fence or 0))) .. ' closed')
redis.call('DEL', KEYS[4])
return {'closed'}
