-- Lists grants that have ended and whose journal row may not say so yet.
--
-- KEYS[1] ended: as in keys.lua
-- ARGV[1] limit: how many at most
--
-- Returns {'found', until_ms, entry, until_ms, entry...}   entry: as in `ended`
local found = {'found'}
local ended = redis.call('ZRANGE', KEYS[1], 0, word(tonumber(ARGV[1]) - 1), 'WITHSCORES')
for at = 1, #ended, 2 do
  found[#found + 1] = ended[at + 1]
  found[#found + 1] = ended[at]
end
return found
